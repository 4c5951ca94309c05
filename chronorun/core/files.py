"""Write whole files or none, flush folders, hash files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

TEMPORARY = ".*.tmp"
"""Glob pattern of what ``write_atomically`` leaves behind when it is killed."""


def expand_user(text: str | os.PathLike[str], error: Exception) -> Path:
    """Return a path with ``~`` and ``~name`` put in full; raise ``error`` where nobody knows them.

    There may be no such user, or no HOME and no name for the user's id (in a container, say).
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise error from None


def fsync_dir(path: str | os.PathLike[str]) -> None:
    """Make the names inside a folder durable; does nothing where folders cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file by ``data`` so that a reader sees the old content or the new, never a part.

    The bytes are durable when this returns. OSError is passed on and leaves the old file alone.
    """
    target = Path(path)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            # mkstemp makes private files; give this one the permissions a plain open() would.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(target.parent)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hex sha256 of a file's content, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    # The only portable way to read it is to set it; both calls are immediate.
    mask = os.umask(0)
    os.umask(mask)
    return mask
