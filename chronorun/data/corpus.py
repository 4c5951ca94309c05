"""A tokenised corpus: made once, kept as memory maps, opened in a moment afterwards.

A cache entry is a folder named by what it was made from (the source's fingerprint and the
configuration). It is written aside and renamed into place, so it is whole or absent; sizes are
checked when it is opened, and a damaged entry is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from chronorun.config.data import DataConfig, TokenizerConfig
from chronorun.core.files import sha256_file
from chronorun.data.documents import SPLITS, Document, assign_splits, hash_documents
from chronorun.data.source import source_module
from chronorun.data.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from chronorun.errors import StorageError, UserError

_FORMAT = 1
Tokens = NDArray[Any]


@dataclass(frozen=True)
class TokenSplit:
    """Tokens of one split; each domain's tokens lie together, as ``spans`` says."""

    tokens: Tokens
    spans: Mapping[str, tuple[int, int]]

    @property
    def n_tokens(self) -> int:
        """Tokens of all domains."""
        return len(self.tokens)

    def domain_tokens(self, domain: str) -> Tokens:
        """Return the tokens of one domain. Raises UserError for a domain that is not there."""
        if domain not in self.spans:
            raise UserError(
                f"data: domain={domain}, expected one of {', '.join(sorted(self.spans))}; "
                f"choose a domain of this corpus"
            )
        start, stop = self.spans[domain]
        return self.tokens[start:stop]


class TokenizedCorpus:
    """Splits of a corpus as tokens, with the tokenizer that made them."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.folder = folder
        self._meta = meta
        self.corpus_hash: str = meta["corpus_hash"]
        self.vocab_size: int = meta["vocab_size"]
        self.domains: list[str] = list(meta["domains"])
        self.bytes_per_token: float = meta["bytes_per_token"]
        self.bigram_nats: float = meta["bigram_nats"]
        self._splits: dict[str, TokenSplit] = {}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the corpus was cut with."""
        return load_tokenizer(self.folder)

    def split(self, name: str) -> TokenSplit:
        """Return ``train``, ``val`` or ``probe``, memory-mapped."""
        if name not in self._splits:
            spans = {d: (a, b) for d, (a, b) in self._meta["splits"][name].items()}
            path = self.folder / f"{name}.bin"
            size = path.stat().st_size
            # An empty file cannot be mapped.
            tokens: Tokens = (
                np.memmap(path, dtype=self._meta["dtype"], mode="r") if size else np.zeros(0, int)
            )
            self._splits[name] = TokenSplit(tokens, spans)
        return self._splits[name]

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer into a folder, made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)


def cache_root(config: DataConfig) -> Path:
    """Return the folder of token caches."""
    named = config.cache_dir or os.environ.get("CHRONORUN_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "chronorun"


def load_corpus(
    config: DataConfig, tokenizer: TokenizerConfig, *, min_tokens: int = 2
) -> TokenizedCorpus:
    """Open the corpus of a configuration, making and caching it on first use.

    Raises UserError in one line for a source that is missing, empty, not UTF-8, out of reach, or
    shorter than ``min_tokens`` in any split.
    """
    module = source_module(config.source)
    identity = {
        "format": _FORMAT,
        "data": _plain(asdict(config), without=("cache_dir",)),
        "tokenizer": _plain(asdict(tokenizer)),
        "source": module.fingerprint(config),
    }
    key = hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()[:24]
    folder = cache_root(config) / f"{config.source.value}-{key}"
    corpus = _open(folder)
    if corpus is None:
        _make(folder, config, tokenizer)
        corpus = _open(folder)
    if corpus is None:
        raise StorageError(f"cache: {folder} cannot be read back; free some disk space")
    _check_length(corpus, config, min_tokens)
    return corpus


def _plain(values: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if key not in without}


def _open(folder: Path) -> TokenizedCorpus | None:
    try:
        meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=dict[str, Any])
        whole = meta["format"] == _FORMAT and all(
            (folder / name).stat().st_size == entry["bytes"]
            for name, entry in meta["files"].items()
        )
        # The digests of small files are free to check; a split of millions of tokens is not.
        whole = whole and all(
            sha256_file(folder / name) == entry["sha256"]
            for name, entry in meta["files"].items()
            if entry["bytes"] <= 1 << 24
        )
        return TokenizedCorpus(folder, meta) if whole else None
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None


def _make(folder: Path, config: DataConfig, tokenizer: TokenizerConfig) -> None:
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=root, prefix=".making-"))
    except OSError as error:
        raise StorageError(
            f"cache: {root} cannot be written ({error.strerror}); set data.cache_dir=FOLDER"
        ) from error
    try:
        scratch = work / "scratch"
        scratch.mkdir()
        documents = source_module(config.source).read(config, scratch)
        shutil.rmtree(scratch)
        _write_entry(work, documents, config, tokenizer)
        if folder.exists() and _open(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            work.rename(folder)
        except OSError:
            # Another process was faster; its entry is the same.
            if _open(folder) is None:
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_entry(
    work: Path, documents: Sequence[Document], config: DataConfig, tokenizer: TokenizerConfig
) -> None:
    from chronorun.data.bigram import bigram_nats_per_token

    splits = assign_splits(documents, config)
    train_texts = [d.text for d in documents if splits[d.name] == "train"]
    cutter = make_tokenizer(tokenizer, train_texts)
    dtype = np.dtype(np.uint16 if cutter.vocab_size <= 1 << 16 else np.uint32)
    domains = list(dict.fromkeys(document.domain for document in documents))
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    arrays: dict[str, Tokens] = {}
    for split in SPLITS:
        pieces, spans[split], offset = [], {}, 0
        for domain in domains:
            texts = [d.text for d in documents if d.domain == domain and splits[d.name] == split]
            tokens = cutter.encode_documents(texts).astype(dtype) if texts else np.zeros(0, dtype)
            spans[split][domain] = (offset, offset + len(tokens))
            offset += len(tokens)
            pieces.append(tokens)
        arrays[split] = np.concatenate(pieces) if pieces else np.zeros(0, dtype)
        arrays[split].tofile(work / f"{split}.bin")
    cutter.save(work)
    val_bytes = sum(d.n_bytes for d in documents if splits[d.name] == "val")
    names = sorted(path.name for path in work.iterdir())
    meta = {
        "format": _FORMAT,
        "corpus_hash": hash_documents(documents, splits),
        "vocab_size": cutter.vocab_size,
        "dtype": dtype.name,
        "domains": domains,
        "splits": spans,
        "bytes_per_token": val_bytes / max(1, len(arrays["val"])),
        "bigram_nats": bigram_nats_per_token(arrays["train"], arrays["val"], cutter.vocab_size),
        "files": {
            name: {"bytes": (work / name).stat().st_size, "sha256": sha256_file(work / name)}
            for name in names
        },
    }
    (work / "meta.json").write_bytes(msgspec.json.encode(meta))


def _check_length(corpus: TokenizedCorpus, config: DataConfig, min_tokens: int) -> None:
    for name in SPLITS:
        spans = corpus.split(name).spans.values()
        longest = max((stop - start for start, stop in spans), default=0)
        if longest < min_tokens:
            raise UserError(
                f"data: the {name} split of source={config.source.value} has {longest} tokens in "
                f"a row, expected at least {min_tokens} (one context and the next token); "
                f"add text or lower model.context_length"
            )
