"""A tokenised corpus: made once, kept as memory maps, opened in a moment afterwards.

A cache entry is a folder named by what it was made from (the source's fingerprint and the
configuration). It is written aside and renamed into place, so it is whole or absent; sizes are
checked when it is opened, and a damaged entry is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from chronorun.config.data import DataConfig, TokenizerConfig
from chronorun.core.files import expand_user, sha256_file
from chronorun.core.lock import FILE as LOCK_FILE, exclusive
from chronorun.data.entry import FORMAT, PROGRESS_FILE, Progress, make_entry
from chronorun.data.lengths import check_bytes, check_tokens, short_domains
from chronorun.data.progress import TerminalProgress
from chronorun.data.source import source_module
from chronorun.data.tokenizer import TOKENIZER_FILE, Tokenizer, load_tokenizer
from chronorun.errors import ChronorunError, StorageError, UserError

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
            pooled = list(self.spans) == ["text"]
            cure = "add data.domain_by=file" if pooled else "choose a domain of this corpus"
            raise UserError(
                f"data: domain={domain}, expected one of {', '.join(sorted(self.spans))}; {cure}"
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
        self.n_bytes: int = meta["taken_bytes"]
        self.keeps_tokenizer: bool = meta["keeps_tokenizer"]
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

    def notices(self, config: DataConfig, min_tokens: int) -> list[str]:
        """Return a line for each thing a person would want to know of what was taken."""
        lines = []
        taken, offered = self.n_bytes, self._meta["offered_bytes"]
        if offered is None:
            lines.append(
                f"data: the first {taken:,} bytes of the text are used, the rest is left out "
                f"(data.max_bytes={config.max_bytes}); raise it to use more"
            )
        elif offered > taken:
            lines.append(
                f"data: {taken:,} of {offered:,} bytes of the text are used, a sample of it "
                f"(data.max_bytes={config.max_bytes}); raise it to use more"
            )
        if self._meta["empty_files"]:
            lines.append(f"data: {self._meta['empty_files']} empty files are left out")
        short = short_domains(self.split("val").spans, min_tokens)
        if short:
            names = ", ".join(short[:3]) + (" ..." if len(short) > 3 else "")
            lines.append(
                f"data: {len(short)} of {len(self.domains)} domains are too short to be evaluated "
                f"by themselves ({names}): less than {min_tokens} tokens for validation"
            )
        return lines

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer into a folder, made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)


def cache_root(config: DataConfig) -> Path:
    """Return the folder of token caches. Raises StorageError when there is no home to put it in."""
    named = config.cache_dir or os.environ.get("CHRONORUN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand_user(
        named or Path(base, "chronorun"),
        StorageError(
            f"cache: {named or base} is in a home folder that is not known, expected a folder that "
            f"can be written; set HOME or data.cache_dir=FOLDER"
        ),
    )


def load_corpus(
    config: DataConfig,
    tokenizer: TokenizerConfig,
    *,
    min_tokens: int = 2,
    given_tokenizer: Path | None = None,
    progress: Progress | None = None,
) -> TokenizedCorpus:
    """Open the corpus of a configuration, making and caching it on first use.

    ``given_tokenizer`` is the folder of a saved tokenizer to use instead of making one.
    Raises UserError in one line for a source that is missing, empty, not UTF-8, out of reach, or
    shorter than ``min_tokens`` in any split.
    """
    module = source_module(config.source)
    # The fingerprint holds the files; how they were named changes nothing.
    without = ("cache_dir", "files", "accept_changes")
    identity = {
        "format": FORMAT,
        "data": {k: str(v) for k, v in asdict(config).items() if k not in without},
        "tokenizer": {k: str(v) for k, v in asdict(tokenizer).items()},
        "source": module.fingerprint(config),
    }
    if given_tokenizer is not None:
        load_tokenizer(given_tokenizer)  # fail now if it is missing or damaged
        identity["given_tokenizer"] = sha256_file(given_tokenizer / TOKENIZER_FILE)
    key = hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()[:24]
    folder = cache_root(config) / f"{config.source.value}-{key}"
    corpus = _open(folder)
    if corpus is None:
        shown = progress or TerminalProgress()
        try:
            _make(folder, config, tokenizer, min_tokens, given_tokenizer, shown)
        finally:
            shown.close()
        corpus = _open(folder)
    if corpus is None:
        raise StorageError(f"cache: {folder} cannot be read back; free some disk space")
    spans = {name: corpus.split(name).spans for name in ("train", "val", "probe")}
    check_tokens(spans, config, min_tokens, corpus.bytes_per_token)
    return corpus


def _open(folder: Path) -> TokenizedCorpus | None:
    try:
        meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=dict[str, Any])
        whole = meta["format"] == FORMAT and all(
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


def _make(
    folder: Path,
    config: DataConfig,
    tokenizer: TokenizerConfig,
    min_tokens: int,
    given_tokenizer: Path | None,
    progress: Progress,
) -> None:
    with _storage_errors_of(folder.parent), _workplace(folder) as work:
        reading = source_module(config.source).read(config)

        def check(split_bytes: dict[str, dict[str, int]]) -> None:
            check_bytes(split_bytes, config, tokenizer, min_tokens)

        make_entry(work, reading, config, tokenizer, check, progress, given_tokenizer)
        if folder.exists() and _open(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            work.rename(folder)
            (folder / LOCK_FILE).unlink(missing_ok=True)
        except OSError:
            # Another process was faster; its entry is the same.
            if _open(folder) is None:
                raise


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Yield a folder to make an entry in: one that an interrupted start left, or an empty one.

    What a long start has done so far is kept when it is interrupted, and removed after an error.
    """
    work = folder.parent / f".making-{folder.name}"
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = exclusive(work, "cache")
        lock.__enter__()
    except UserError:  # another process makes it: make it here as well
        lock = None
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    if not (work / PROGRESS_FILE).is_file():
        _empty(work)
    try:
        yield work
    except BaseException as error:
        failed = isinstance(error, ChronorunError) or not (work / PROGRESS_FILE).is_file()
        if failed or lock is None:
            shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            lock.__exit__(None, None, None)
    shutil.rmtree(work, ignore_errors=True)


def _empty(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_FILE:
            path.unlink()


@contextmanager
def _storage_errors_of(root: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line that names the cache."""
    try:
        yield
    except ChronorunError:
        raise
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0]
        # Without a number it is a write that came out short.
        full = error.errno in (None, errno.ENOSPC, errno.EDQUOT)
        advice = "free some space or set" if full else "set"
        raise StorageError(
            f"cache: {root} cannot be written ({why}); {advice} data.cache_dir=FOLDER"
        ) from error
