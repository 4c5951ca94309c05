"""Text files of one's own, read through ``datasets``.

Each entry of ``data.files`` (a file or a glob) is a domain. A file that is a large part of its
domain is cut into blocks, so that a single book can be split as well as a folder of letters.
"""

from __future__ import annotations

import codecs
import glob
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from chronorun.config.data import DataConfig
from chronorun.data.documents import Document, cut_blocks, share_evenly
from chronorun.errors import UserError

_LARGE_SHARE = 0.02  # a bigger part of its domain is cut
_PIECE_BYTES = 2**20


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Identify the files by path, size and time."""
    found = _find_all(config)
    return {
        entry: [
            [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths
        ]
        for entry, paths in found.items()
    }


def read(config: DataConfig) -> list[Document]:
    """Read the files in order, the beginning of each entry where ``max_bytes`` is short."""
    found = _find_all(config)
    names = _names_within(found)
    sizes = [sum(path.stat().st_size for path in paths) for paths in found.values()]
    shares = share_evenly(sizes, config.max_bytes)
    documents: list[Document] = []
    with tempfile.TemporaryDirectory(prefix="chronorun-") as folder:
        for (entry, paths), share in zip(found.items(), shares, strict=True):
            staged: list[tuple[Path, Path]] = []
            for path in paths:
                if share > 0:
                    # datasets takes names as patterns and skips hidden files: give it plain ones.
                    plain = Path(folder) / f"{len(documents)}-{len(staged)}.txt"
                    share -= _stage(path, plain, share)
                    staged.append((path, plain))
            texts = _load_documents([plain for _, plain in staged])
            documents += _domain_documents(
                entry, [(names[path], text) for (path, _), text in zip(staged, texts, strict=True)]
            )
    return documents


def _domain_documents(domain: str, texts: list[tuple[str, str]]) -> list[Document]:
    total = sum(len(text.encode()) for _, text in texts)
    documents: list[Document] = []
    seen: set[str] = set()
    for name, text in texts:
        whole = text if text.endswith("\n") else f"{text}\n"
        if len(whole.encode()) > _LARGE_SHARE * total:
            blocks = cut_blocks(whole, total)
            documents += [Document(f"{name}#{i}", domain, block) for i, block in enumerate(blocks)]
        elif whole not in seen:  # a copy under another name could end up in another split
            documents.append(Document(name, domain, whole))
            seen.add(whole)
    return documents


def _load_documents(paths: list[Path]) -> list[str]:
    """Return the text of each file, in order; line ends become newlines."""
    from datasets import load_dataset

    rows = load_dataset(
        "text",
        data_files=[str(path) for path in paths],
        sample_by="document",
        split="train",
        streaming=True,  # no second copy of the text in the library's cache
    )
    return [row["text"] for row in rows]


def _stage(path: Path, plain: Path, limit: int) -> int:
    """Check that the first ``limit`` bytes are UTF-8 and put them at ``plain``; return their size.

    A file that fits is linked, one that does not is copied up to the last line end that fits.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            n_bytes = _check_utf8(file, path, min(size, limit))
            if size <= limit:
                plain.symlink_to(path.resolve())
                return size
            file.seek(0)
            head = file.read(n_bytes)
    except OSError as error:
        _refuse(path, f"expected a readable text file ({error.strerror})", "check its permissions")
    plain.write_bytes(head[: head.rfind(b"\n") + 1] or head)
    return limit


def _check_utf8(file: Any, path: Path, n_bytes: int) -> int:
    """Return how many of the first ``n_bytes`` are whole characters; UserError names a bad byte."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    while done < n_bytes and (piece := file.read(min(_PIECE_BYTES, n_bytes - done))):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(piece)
        except UnicodeDecodeError as error:
            _refuse_encoding(path, done - pending + error.start)
        done += len(piece)
    pending = len(decoder.getstate()[0])
    if pending and done == path.stat().st_size:
        _refuse_encoding(path, done - pending)
    return done - pending


def _find_all(config: DataConfig) -> dict[str, list[Path]]:
    """Return the files of each entry; a file named twice belongs to the first."""
    seen: set[Path] = set()
    found: dict[str, list[Path]] = {}
    for entry in config.files:
        fresh = [path for path in _find(entry) if path.resolve() not in seen]
        seen.update(path.resolve() for path in fresh)
        if fresh:
            found[entry] = fresh
    return found


def _find(entry: str) -> list[Path]:
    path = Path(entry).expanduser()
    if path.is_file():
        if path.stat().st_size == 0:
            _refuse(path, "expected text but the file is empty", "name another file")
        return [path]
    if path.is_dir():
        _refuse(path, "expected a file but this is a folder", f"write data.files={path / '*.txt'}")
    if path.exists():
        _refuse(path, "expected a regular file", "copy it into one")
    if not glob.has_magic(str(path)):
        _refuse(path, "expected an existing file", "check the path")
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file() and match.stat().st_size > 0]
    if not files:
        _refuse(path, "expected a glob that matches a non-empty file", "check the pattern")
    return files


def _names_within(found: dict[str, list[Path]]) -> dict[Path, str]:
    """Name files from their common folder on: a corpus may move without changing its split."""
    paths = [path for group in found.values() for path in group]
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return {path: path.absolute().relative_to(common).as_posix() for path in paths}


def _refuse(path: Path, rule: str, advice: str) -> NoReturn:
    raise UserError(f"data: files={path}, {rule}; {advice}")


def _refuse_encoding(path: Path, offset: int) -> NoReturn:
    _refuse(
        path,
        f"expected UTF-8 but byte {offset} is not",
        "convert it, for example with iconv -f latin1 -t utf-8",
    )
