"""Corpora of the Hugging Face Hub. Needs a network on first use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chronorun.config.data import DataConfig, Source
from chronorun.data.documents import Document, cap_documents
from chronorun.data.text_source import cut_blocks
from chronorun.errors import UserError

REPOSITORIES = {
    Source.tinystories: "roneneldan/TinyStories",
    Source.tinyshakespeare: "karpathy/tiny_shakespeare",
}


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Name the repository: a corpus of the Hub is taken as fixed."""
    return {"repository": REPOSITORIES[config.source]}


def read(config: DataConfig, workdir: Path) -> list[Document]:
    """Stream stories (or cut the plays into blocks) until ``max_bytes`` are there."""
    domain, documents, size = config.source.value, [], 0
    for number, text in enumerate(_texts(config)):
        documents.append(Document(f"{domain}/{number}", domain, text))
        size += documents[-1].n_bytes
        if size >= config.max_bytes:
            break
    if not documents:
        raise UserError(f"data: source={domain} gave no text; use data=stdlib")
    return cap_documents(documents, config)


def _texts(config: DataConfig) -> Iterator[str]:
    from chronorun.data.library import load_dataset_quietly

    name = REPOSITORIES[config.source]
    try:
        for row in load_dataset_quietly(name, split="train", streaming=True):
            if config.source is Source.tinyshakespeare:
                yield from cut_blocks(row["text"])
            else:
                yield row["text"] + "\n"
    except Exception as error:  # the library and its HTTP client raise many kinds
        raise UserError(
            f"data: source={config.source.value} ({name}) cannot be reached "
            f"({type(error).__name__}); check the network, or use data=stdlib or data=text"
        ) from error
