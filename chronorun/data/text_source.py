"""Text files of the user's own, through the ``datasets`` library.

A file has no documents of its own, so it is cut into blocks at line ends; blocks are what is split
into train, val and probe. The domain of a file is its name.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from chronorun.config.data import DataConfig
from chronorun.data.documents import Document, cap_documents
from chronorun.errors import UserError

_LARGEST_BLOCK = 65_536
_BLOCKS_PER_FILE = 32


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Identify the files by path, size and time of change."""
    rows = []
    for path in _files(config):
        status = path.stat()
        rows.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    return {"files": rows}


def read(config: DataConfig, workdir: Path) -> list[Document]:
    """Read every file and cut it into blocks."""
    documents: list[Document] = []
    for path in _files(config):
        _check_utf8(path)
        text = _load(path, workdir)
        for number, block in enumerate(cut_blocks(text)):
            documents.append(Document(f"{path}#{number}", path.name, block))
    return cap_documents(documents, config)


def cut_blocks(text: str) -> list[str]:
    """Cut a text at line ends into about 32 blocks, none much beyond 64 KiB characters."""
    size = max(1, min(_LARGEST_BLOCK, len(text) // _BLOCKS_PER_FILE))
    blocks, start = [], 0
    while start < len(text):
        stop = text.find("\n", start + size - 1) + 1
        # A file without line ends is cut where the block is full.
        if stop == 0 or stop - start > 2 * size:
            stop = start + size
        if len(text) - stop < size // 2:
            stop = len(text)
        blocks.append(text[start:stop])
        start = stop
    return blocks


def _files(config: DataConfig) -> list[Path]:
    found: list[Path] = []
    for pattern in config.files:
        path = Path(pattern).expanduser()
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)))]  # noqa: PTH207
        if not matches:
            raise UserError(
                f"data: files={pattern} does not exist, expected a text file or a glob that "
                f"matches one; check the path (it is relative to the current folder)"
            )
        for match in matches:
            if not match.is_file():
                raise UserError(
                    f"data: files={match} is a folder, expected text files; "
                    f"use a glob such as '{match}/*.txt'"
                )
            if match.stat().st_size == 0:
                raise UserError(
                    f"data: files={match} is empty, expected text; remove it from data.files"
                )
        found.extend(matches)
    return list(dict.fromkeys(found))


def _check_utf8(path: Path) -> None:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data: files={path} is not UTF-8 (byte {error.start}), expected UTF-8 text; "
            f"convert it, for instance with iconv"
        ) from None


def _load(path: Path, workdir: Path) -> str:
    from chronorun.data.library import load_dataset_quietly

    rows = load_dataset_quietly(
        "text", data_files=str(path), sample_by="document", split="train", cache_dir=str(workdir)
    )
    return "".join(row["text"] for row in rows)
