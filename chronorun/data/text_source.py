"""Files of the user's own: plain text, compressed text, and rows of jsonl, json and parquet.

A plain text has no documents, so it is cut into blocks at line ends; blocks are what is split into
train, val and probe. A row is a document. Names come from the content: where a file lies and how
its path is written changes nothing.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chronorun.config.data import DataConfig
from chronorun.data.blocks import cut_blocks
from chronorun.data.documents import Document, share_evenly
from chronorun.data.files import TextFile, find_files
from chronorun.data.rows import builder_of, texts_of_file
from chronorun.data.source import Reading
from chronorun.errors import UserError

__all__ = ["cut_blocks", "fingerprint", "read"]

# Plain files are read whole up to this size together; of more, a sample of blocks is read.
_READ_WHOLE_BYTES = 64 << 20
_STRETCH = 65_536
_PACKED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip under a name without .gz",
    b"\x28\xb5\x2f\xfd": "Zstandard under a name without .zst",
    b"PAR1": "parquet under a name without .parquet",
}


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Identify the files by path, size and time of change."""
    files, empty = find_files(config)
    rows = [[os.fsencode(f.path).hex(), f.domain, f.size, f.changed_ns] for f in files]
    return {"files": rows, "empty": empty}


def read(config: DataConfig) -> Reading:
    """Read every file; a large collection is sampled, and rows are taken from the beginning."""
    files, empty = find_files(config)
    plain = [file for file in files if builder_of(file.path) is None]
    rowed = [file for file in files if builder_of(file.path) is not None]
    reading = Reading((), divisible=True, empty_files=empty)
    plain_bytes = sum(file.size for file in plain)
    # What the plain files leave, and at least a share for each file.
    budget = config.max_bytes * len(rowed) // len(files)
    budget = max(budget, config.max_bytes - plain_bytes) if rowed else 0
    if plain_bytes <= _READ_WHOLE_BYTES:
        texts: Iterator[Document] = (_whole(file, config) for file in plain)
    else:
        texts = _sampled(plain, config, config.max_bytes - budget)
        sampled = plain_bytes > config.max_bytes - budget
        reading.known_bytes = plain_bytes if sampled and not rowed else None
        reading.stopped_early = bool(sampled and rowed)
    reading.documents = itertools.chain(texts, _rows(rowed, config, budget, reading))
    return reading


def _whole(file: TextFile, config: DataConfig) -> Document:
    data = _without_bom(file.read(0, file.size))
    return Document(file.content_id(), file.domain, _decoded(data, 0, file, config))


def _sampled(files: Sequence[TextFile], config: DataConfig, n_bytes: int) -> Iterator[Document]:
    """Yield stretches of 64 KiB until each domain has its even share of ``n_bytes``.

    Those with the lowest hash of their name are taken, so that a sample represents the whole; only
    these are read.
    """
    sizes: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    contents = [file.content_id() for file in files]
    for file, content in zip(files, contents, strict=True):
        sizes[file.domain] = sizes.get(file.domain, 0) + file.size
        stretches = range(-(-file.size // _STRETCH))
        names.setdefault(file.domain, []).extend(f"{content}/{number}" for number in stretches)
    shares = share_evenly(list(sizes.values()), n_bytes)
    taken = {
        domain: _lowest(names[domain], -(-share // _STRETCH), config)
        for domain, share in zip(sizes, shares, strict=True)
    }
    for file, content in zip(files, contents, strict=True):
        for number, start in enumerate(range(0, file.size, _STRETCH)):
            name = f"{content}/{number}"
            if _chance(name, config) > taken[file.domain]:
                continue
            begin = _line_start(file, start)
            end = _line_start(file, min(file.size, start + _STRETCH))
            data = file.read(begin, end - begin)
            data = _without_bom(data) if begin == 0 else data
            text = _decoded(data, begin, file, config)
            if text:
                yield Document(name, file.domain, text)


def _chance(name: str, config: DataConfig) -> int:
    digest = hashlib.sha256(f"{config.split_seed}:take:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _lowest(names: Sequence[str], count: int, config: DataConfig) -> int:
    """Return the chance up to which ``count`` of the names lie."""
    chances = np.fromiter((_chance(name, config) for name in names), np.uint64, len(names))
    last = min(count, len(names)) - 1
    return int(np.partition(chances, last)[last]) if last >= 0 else -1


def _line_start(file: TextFile, place: int) -> int:
    """Return the first line start at or after a place, or a character's start in a long line."""
    if place == 0 or place >= file.size:
        return min(place, file.size)
    near = file.read(place - 1, _STRETCH)
    end = near.find(b"\n")
    if end >= 0:
        return place + end
    # No line end near: the first byte that does not continue a character (10xxxxxx).
    offset = next((i for i, byte in enumerate(near[1:5]) if byte & 0xC0 != 0x80), 0)
    return place + offset


def _without_bom(data: bytes) -> bytes:
    return data.removeprefix(codecs.BOM_UTF8)


def _decoded(data: bytes, start: int, file: TextFile, config: DataConfig) -> str:
    try:
        text = data.decode("utf-8", config.errors.value)
    except UnicodeDecodeError as error:
        raise UserError(
            f"data: files={file.shown} {_what_it_is(data, start + error.start)}, expected UTF-8 "
            f"text; convert it, for instance with iconv, or add data.errors=replace"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _what_it_is(data: bytes, place: int) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "is UTF-16"
    for magic, kind in _PACKED.items():
        if data.startswith(magic):
            return f"is {kind}, which is not read"
    if b"\0" in data[:8192]:
        return "holds NUL bytes, as files that are not text do"
    return f"is not UTF-8 (byte {place})"


def _rows(
    files: Sequence[TextFile], config: DataConfig, budget: int, reading: Reading
) -> Iterator[Document]:
    """Yield the rows of each file from its beginning, an even share of the budget from each."""
    left = budget
    # Small files first: what they leave goes to the larger ones.
    for position, file in enumerate(sorted(files, key=lambda file: file.size)):
        share = left // (len(files) - position)
        content, taken, number = file.content_id(), 0, -1
        compressed_text = builder_of(file.path) == "text"
        for number, text in enumerate(texts_of_file(file, config)):
            if number == 0:
                text = text.removeprefix("\ufeff")
            if taken >= share:
                reading.stopped_early = True
                break
            # Equal rows share a name, and with it a split.
            name = f"{content}/{number}" if compressed_text else content_name(text)
            document = Document(name, file.domain, text)
            taken += document.n_bytes
            yield document
        reading.empty_files += number < 0
        left -= min(taken, left)


def content_name(text: str) -> str:
    """Return the name of a document that is known by its text alone."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
