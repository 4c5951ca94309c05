"""Makes a cache entry: documents in, token files with their description out.

A corpus of up to 64 MiB is held in memory, sampled to ``max_bytes`` and split exactly. A larger one
is streamed: the hash of a document's name says where it goes, tokens are appended to files, and
what was done is written down, so that an interrupted start goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from chronorun.config.data import DataConfig, TokenizerConfig, TokenizerKind
from chronorun.core.files import sha256_file, write_atomically
from chronorun.data.bigram import bigram_nats_per_token
from chronorun.data.blocks import streamed_block_bytes
from chronorun.data.documents import (
    SPLITS,
    Document,
    blocks_of,
    cap_documents,
    cut_long,
    document_record,
    hash_documents,
    split_by_hash,
    split_documents,
)
from chronorun.data.source import Reading
from chronorun.data.tokenizer import TOKENIZER_FILE, Tokenizer, load_tokenizer, make_tokenizer

FORMAT = 2
IN_MEMORY_BYTES = 64 << 20
PROGRESS_FILE = "progress.json"
_FILES = (*(f"{split}.bin" for split in SPLITS), TOKENIZER_FILE)
_BATCH_BYTES = 16 << 20
# The bigram baseline of a streamed corpus is fitted to this much: counts of pairs take memory.
_BIGRAM_TOKENS = 8 << 20


class Progress(Protocol):
    """Hears of a corpus that takes long to make."""

    def say(self, message: str) -> None:
        """Take a line for people."""

    def advance(self, done_bytes: int, expected_bytes: int) -> None:
        """Hear how much text has been tokenised so far."""

    def close(self) -> None:
        """Hear that there is no more to come."""


@dataclass
class _Streamed:
    """What has been written of a streamed corpus; the state that a restart goes on from."""

    documents: int = 0
    n_bytes: int = 0
    val_bytes: int = 0
    chain: str = ""
    domains: list[str] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    stopped_early: bool = False


class LengthCheck(Protocol):
    """Refuses splits that are too short, before any text is tokenised."""

    def __call__(self, split_bytes: dict[str, dict[str, int]]) -> None:
        """Take the bytes of each split and domain. Raises UserError."""


def make_entry(
    work: Path,
    reading: Reading,
    config: DataConfig,
    tokenizer: TokenizerConfig,
    check: LengthCheck,
    progress: Progress,
    given_tokenizer: Path | None = None,
) -> None:
    """Write token files, tokenizer and ``meta.json`` into ``work``.

    ``given_tokenizer`` is the folder of one to use instead of making one. Raises UserError where a
    source cannot be read or is too short.
    """
    stream = iter(reading.documents)
    head = list(_up_to(stream, IN_MEMORY_BYTES if config.max_bytes > IN_MEMORY_BYTES else None))
    rest = next(stream, None)
    if rest is None:
        meta = _held(work, head, reading, config, tokenizer, check, given_tokenizer)
    else:
        documents = itertools.chain(head, [rest], stream)
        cutter = _streamed_tokenizer(work, head, config, tokenizer, progress, given_tokenizer)
        meta = _stream(work, documents, reading, config, cutter, progress)
    names = sorted(p.name for p in work.iterdir() if p.name in _FILES)
    meta |= {
        "format": FORMAT,
        "empty_files": reading.empty_files,
        "keeps_tokenizer": given_tokenizer is not None,
        "files": {
            name: {"bytes": (work / name).stat().st_size, "sha256": sha256_file(work / name)}
            for name in names
        },
    }
    write_atomically(work / "meta.json", msgspec.json.encode(meta))
    # Only now is there nothing left that an interrupted start would have to do again.
    for path in [*work.glob("*.part"), work / PROGRESS_FILE]:
        path.unlink(missing_ok=True)


def _up_to(stream: Iterator[Document], n_bytes: int | None) -> Iterator[Document]:
    taken = 0
    for document in stream:
        yield document
        taken += document.n_bytes
        if n_bytes is not None and taken >= n_bytes:
            return


def _held(
    work: Path,
    found: Sequence[Document],
    reading: Reading,
    config: DataConfig,
    tokenizer: TokenizerConfig,
    check: LengthCheck,
    given_tokenizer: Path | None,
) -> dict[str, Any]:
    offered = reading.known_bytes or sum(document.n_bytes for document in found)
    documents: Sequence[Document] = cut_long(found, config) if reading.divisible else found
    documents, splits = split_documents(cap_documents(documents, config), config)
    domains = list(dict.fromkeys(document.domain for document in documents))
    split_bytes = {split: dict.fromkeys(domains, 0) for split in SPLITS}
    for document in documents:
        split_bytes[splits[document.name]][document.domain] += document.n_bytes
    check(split_bytes)
    train_texts = [d.text for d in documents if splits[d.name] == "train"]
    cutter = (
        load_tokenizer(given_tokenizer)
        if given_tokenizer
        else make_tokenizer(tokenizer, train_texts)
    )
    dtype = _dtype(cutter)
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    arrays: dict[str, NDArray[Any]] = {}
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
    val_bytes = sum(split_bytes["val"].values())
    return {
        "corpus_hash": hash_documents(documents, splits),
        "vocab_size": cutter.vocab_size,
        "dtype": dtype.name,
        "domains": domains,
        "splits": spans,
        "bytes_per_token": val_bytes / max(1, len(arrays["val"])),
        "bigram_nats": bigram_nats_per_token(arrays["train"], arrays["val"], cutter.vocab_size),
        "taken_bytes": sum(document.n_bytes for document in documents),
        "offered_bytes": None if reading.stopped_early else offered,
    }


def _dtype(cutter: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if cutter.vocab_size <= 1 << 16 else np.uint32)


def _streamed_tokenizer(
    work: Path,
    head: Sequence[Document],
    config: DataConfig,
    tokenizer: TokenizerConfig,
    progress: Progress,
    given: Path | None,
) -> Tokenizer:
    """Return the tokenizer of a streamed corpus, trained on the part of its beginning."""
    if (work / PROGRESS_FILE).is_file():
        return load_tokenizer(work)
    if given is not None:
        cutter = load_tokenizer(given)
    else:
        if tokenizer.kind is not TokenizerKind.byte:
            progress.say(f"a tokenizer is trained on the first {IN_MEMORY_BYTES >> 20} MiB of text")
        texts = (d.text for d in head if split_by_hash(d.name, config) == "train")
        cutter = make_tokenizer(tokenizer, texts)
    cutter.save(work)
    # From here on an interrupted start is kept.
    write_atomically(work / PROGRESS_FILE, msgspec.json.encode(_Streamed()))
    return cutter


def _stream(
    work: Path,
    documents: Iterable[Document],
    reading: Reading,
    config: DataConfig,
    cutter: Tokenizer,
    progress: Progress,
) -> dict[str, Any]:
    done = _resumed(work)
    if done.documents:
        progress.say(f"going on after {done.n_bytes:,} bytes of text that are tokenised already")
    block = streamed_block_bytes(IN_MEMORY_BYTES, config)
    rest = () if done.stopped_early else itertools.islice(documents, done.documents, None)
    for batch in _batches(rest, block if reading.divisible else None):
        _append(work, batch, done, config, cutter)
        write_atomically(work / PROGRESS_FILE, msgspec.json.encode(done))
        progress.advance(done.n_bytes, config.max_bytes)
        if done.stopped_early:
            break
    progress.say("the token files are put together")
    spans, dtype = _join_parts(work, done, _dtype(cutter)), _dtype(cutter)
    train, val = (np.fromfile(work / f"{s}.bin", dtype, _BIGRAM_TOKENS) for s in SPLITS[:2])
    n_val = (work / "val.bin").stat().st_size // dtype.itemsize
    left_out = done.stopped_early or reading.stopped_early
    return {
        "corpus_hash": done.chain,
        "vocab_size": cutter.vocab_size,
        "dtype": dtype.name,
        "domains": done.domains,
        "splits": spans,
        "bytes_per_token": done.val_bytes / max(1, n_val),
        "bigram_nats": bigram_nats_per_token(train, val, cutter.vocab_size),
        "taken_bytes": done.n_bytes,
        "offered_bytes": reading.known_bytes or (None if left_out else done.n_bytes),
    }


def _resumed(work: Path) -> _Streamed:
    """Return what is whole of an earlier start; files are cut back to it."""
    try:
        done = msgspec.json.decode((work / PROGRESS_FILE).read_bytes(), type=_Streamed)
        # A part shorter than what was written down lost its end: all is made anew.
        whole = all((work / name).stat().st_size >= size for name, size in done.parts.items())
        done = done if whole else _Streamed()
        for name, size in done.parts.items():
            os.truncate(work / name, size)
    except (OSError, msgspec.MsgspecError):
        done = _Streamed()
    for path in work.glob("*.part"):
        if path.name not in done.parts:
            path.unlink()
    return done


def _batches(
    documents: Iterable[Document], n_bytes: int | None
) -> Iterator[list[tuple[Document, list[Document]]]]:
    """Yield batches of documents, each with its blocks of ``n_bytes`` (None: it stays whole)."""
    batch: list[tuple[Document, list[Document]]] = []
    size = 0
    for document in documents:
        blocks = [document] if n_bytes is None else list(blocks_of(document, n_bytes))
        batch.append((document, blocks))
        size += document.n_bytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _append(
    work: Path,
    batch: Sequence[tuple[Document, list[Document]]],
    done: _Streamed,
    config: DataConfig,
    cutter: Tokenizer,
) -> None:
    texts: dict[str, list[str]] = {}
    for _, blocks in batch:
        for block in blocks:
            if done.n_bytes + block.n_bytes > config.max_bytes:
                done.stopped_early = True
                break
            if block.domain not in done.domains:
                done.domains.append(block.domain)
            split = split_by_hash(block.name, config)
            name = f"{split}-{done.domains.index(block.domain)}.part"
            texts.setdefault(name, []).append(block.text)
            record = bytes.fromhex(done.chain) + document_record(block, split)
            done.chain = hashlib.sha256(record).hexdigest()
            done.n_bytes += block.n_bytes
            done.val_bytes += block.n_bytes if split == "val" else 0
        if done.stopped_early:
            break
        done.documents += 1
    for name, held in texts.items():
        with (work / name).open("ab") as file:
            file.write(cutter.encode_documents(held).astype(_dtype(cutter)).tobytes())
            file.flush()
            os.fsync(file.fileno())
            done.parts[name] = file.tell()


def _join_parts(
    work: Path, done: _Streamed, dtype: np.dtype[Any]
) -> dict[str, dict[str, tuple[int, int]]]:
    """Write the domains of each split one after the other, in files next to their parts."""
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    for split in SPLITS:
        spans[split], offset = {}, 0
        with (work / f"{split}.bin").open("wb") as file:
            for index, domain in enumerate(done.domains):
                part = work / f"{split}-{index}.part"
                n_tokens = done.parts.get(part.name, 0) // dtype.itemsize
                spans[split][domain] = (offset, offset + n_tokens)
                offset += n_tokens
                if n_tokens:
                    with part.open("rb") as opened:
                        shutil.copyfileobj(opened, file, 1 << 20)
    return spans
