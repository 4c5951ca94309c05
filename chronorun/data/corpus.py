"""From a configuration to memory-mapped tokens, prepared once and cached."""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorun.config.data import DataConfig, TokenizerConfig, TokenizerKind
from chronorun.data.cache import Meta, cache_key, cache_root, open_or_build
from chronorun.data.documents import SPLITS, Document, assign_splits, hash_documents
from chronorun.data.source import source_module
from chronorun.data.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from chronorun.errors import UserError

Tokens = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class TokenSplit:
    """The tokens of one split, domain after domain.

    ``spans`` maps each domain to its (start, stop) in ``tokens``; windows never cross a span.
    """

    name: str
    tokens: Tokens
    spans: dict[str, tuple[int, int]]
    n_bytes: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all domains."""
        return len(self.tokens)

    @property
    def bytes_per_token(self) -> float:
        """Mean length of a token in bytes of UTF-8."""
        return self.n_bytes / self.n_tokens

    def domain_tokens(self, domain: str) -> Tokens:
        """Return a view on the tokens of one domain. Raises UserError for an unknown one."""
        start, stop = self.span(domain)
        return self.tokens[start:stop]

    def span(self, domain: str) -> tuple[int, int]:
        """Return (start, stop) of a domain. Raises UserError for an unknown one."""
        if domain not in self.spans:
            raise UserError(
                f"data: domain={domain}, expected one of {', '.join(self.spans)}; "
                f"correct the name of the domain"
            )
        return self.spans[domain]


@dataclass(frozen=True, eq=False)
class TokenizedCorpus:
    """Three splits, the tokenizer that made them and the hash of the text they came from."""

    splits: dict[str, TokenSplit]
    domains: list[str]
    tokenizer: Tokenizer
    corpus_hash: str
    folder: Path

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.tokenizer.vocab_size

    @property
    def bytes_per_token(self) -> float:
        """Mean length of a token of the val split in bytes: nats per byte = nats per token / it."""
        return self.splits["val"].bytes_per_token

    def split(self, name: str) -> TokenSplit:
        """Return "train", "val" or "probe"."""
        return self.splits[name]

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write tokenizer.json into an existing folder."""
        self.tokenizer.save(Path(folder))


def load_corpus(
    config: DataConfig, tokenizer: TokenizerConfig, *, min_tokens: int = 2
) -> TokenizedCorpus:
    """Return the corpus as tokens, from the cache when it is there.

    ``min_tokens`` is one context and its last target: every split must have a stretch that long.
    Raises UserError for text that is missing, unreadable or too short, StorageError for a cache
    that cannot be written.
    """
    fingerprint = source_module(config.source).fingerprint(config)

    def build(workdir: Path) -> Meta:
        return _prepare(config, tokenizer, min_tokens, workdir)

    name = f"{config.source.value}-{cache_key(_identity(config, tokenizer, fingerprint))}"
    folder, meta = open_or_build(cache_root(config), name, build)
    corpus = _open(folder, meta)
    for split, tokens in corpus.splits.items():
        lengths = [stop - start for start, stop in tokens.spans.values()]
        _check_length(config, split, max(lengths), min_tokens)
    return corpus


def _identity(
    config: DataConfig, tokenizer: TokenizerConfig, fingerprint: dict[str, Any]
) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "source": config.source.value,
        "fingerprint": fingerprint,
        "max_bytes": config.max_bytes,
        "fractions": [config.val_fraction, config.probe_fraction],
        "split_seed": config.split_seed,
        "tokenizer": tokenizer.kind.value,
    }
    if tokenizer.kind is TokenizerKind.bpe:
        identity["vocab_size"] = tokenizer.vocab_size
        identity["tokenizers"] = importlib.metadata.version("tokenizers")
    return identity


def _prepare(config: DataConfig, kind: TokenizerConfig, min_tokens: int, workdir: Path) -> Meta:
    """Read, split and tokenise the corpus into an empty folder; return its description."""
    documents = source_module(config.source).read(config)
    splits = assign_splits(documents, config)
    texts: dict[str, dict[str, list[str]]] = {split: defaultdict(list) for split in SPLITS}
    for document in documents:
        texts[splits[document.name]][document.domain].append(document.text)
    domains = list(dict.fromkeys(document.domain for document in documents))
    train_texts = (text for domain in domains for text in texts["train"][domain])
    tokenizer = make_tokenizer(kind, train_texts)
    tokenizer.save(workdir)
    described = {}
    for split in SPLITS:
        path = workdir / f"{split}.bin"
        spans = _write_split(path, [texts[split][domain] for domain in domains], tokenizer)
        _check_length(config, split, max((b - a for a, b in spans), default=0), min_tokens)
        described[split] = {
            "spans": dict(zip(domains, spans, strict=True)),
            "n_bytes": _split_bytes(documents, splits, split),
        }
    return {
        "corpus_hash": hash_documents(documents, splits),
        "config": {"source": config.source.value, "tokenizer": kind.kind.value},
        "domains": domains,
        "splits": described,
    }


def _write_split(
    path: Path, texts_by_domain: Sequence[list[str]], tokenizer: Tokenizer
) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    written = 0
    with path.open("wb") as file:
        for texts in texts_by_domain:
            tokens = tokenizer.encode_documents(texts)
            file.write(tokens.astype("<u2").tobytes())
            spans.append((written, written + len(tokens)))
            written += len(tokens)
    return spans


def _split_bytes(documents: Sequence[Document], splits: dict[str, str], split: str) -> int:
    return sum(document.n_bytes for document in documents if splits[document.name] == split)


def _open(folder: Path, meta: Meta) -> TokenizedCorpus:
    splits: dict[str, TokenSplit] = {}
    for name, described in meta["splits"].items():
        mapped = np.memmap(folder / f"{name}.bin", dtype="<u2", mode="r")
        # A plain array over the same pages: indexing a memmap object costs several times more.
        tokens: Tokens = np.asarray(mapped)
        spans = {domain: (start, stop) for domain, (start, stop) in described["spans"].items()}
        splits[name] = TokenSplit(name, tokens, spans, described["n_bytes"])
    return TokenizedCorpus(
        splits, meta["domains"], load_tokenizer(folder), meta["corpus_hash"], folder
    )


def _check_length(config: DataConfig, split: str, n_tokens: int, min_tokens: int) -> None:
    if n_tokens < min_tokens:
        raise UserError(
            f"data: source={config.source.value} is shorter than one context: the {split} split "
            f"has {n_tokens} tokens, expected >= {min_tokens}; add text or lower "
            f"model.context_length"
        )
