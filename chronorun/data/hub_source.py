"""Public sets of the Hugging Face Hub, streamed through ``datasets`` on first use.

Only what ``max_bytes`` allows is fetched; later starts read the token cache and need no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chronorun.config.data import DataConfig, Source
from chronorun.data.documents import Document, cut_blocks
from chronorun.errors import UserError

_ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class HubSet:
    """Where a set lives on the Hub; one of few long texts is cut into blocks."""

    repository: str
    revision: str
    splits: tuple[str, ...]
    few_long_texts: bool


def hub_set(source: Source) -> HubSet:
    """Return the set that a source names."""
    if source is Source.tinystories:
        return HubSet("roneneldan/TinyStories", "main", ("train",), few_long_texts=False)
    # The set itself is a loading script, which datasets no longer runs; this is its Parquet copy.
    return HubSet(
        "karpathy/tiny_shakespeare",
        "refs/convert/parquet",
        ("train", "validation", "test"),
        few_long_texts=True,
    )


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Identify the set by its address; asking the Hub at every start would need a network."""
    wanted = hub_set(config.source)
    return {"repository": wanted.repository, "revision": wanted.revision}


def read(config: DataConfig) -> list[Document]:
    """Stream the beginning of the set. Raises UserError when the Hub cannot be reached."""
    wanted = hub_set(config.source)
    try:
        _ask_hub(wanted)
        texts = list(_take(_stream(wanted), config.max_bytes))
    except Exception as error:  # the libraries raise their own, httpx's, fsspec's and OSError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data: source={config.source.value} could not be read from the Hub "
            f"({wanted.repository}), expected a network connection ({reason}); "
            f"use data=stdlib or data=text data.files=book.txt"
        ) from error
    if wanted.few_long_texts:
        whole = "\n".join(texts)
        texts = cut_blocks(whole, len(whole.encode()))
    return [
        Document(f"{wanted.repository}#{number}", config.source.value, text)
        for number, text in enumerate(texts)
    ]


def _ask_hub(wanted: HubSet) -> None:
    # datasets retries an unreachable Hub for half a minute, talking; one question settles it.
    from huggingface_hub import HfApi

    HfApi().dataset_info(wanted.repository, revision=wanted.revision, timeout=_ANSWER_TIMEOUT_S)


def _stream(wanted: HubSet) -> Iterator[str]:
    from datasets import load_dataset

    for split in wanted.splits:
        rows = load_dataset(
            wanted.repository, revision=wanted.revision, split=split, streaming=True
        )
        for row in rows:
            text = str(row["text"]).strip("\n")
            if text:
                yield text + ("\n" if wanted.few_long_texts else "\n\n")


def _take(texts: Iterator[str], max_bytes: int) -> Iterator[str]:
    left = max_bytes
    for text in texts:
        encoded = text.encode("utf-8", "replace")
        yield encoded[:left].decode("utf-8", "ignore")
        left -= len(encoded)
        if left <= 0:
            return
