"""One process at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chronorun.errors import UserError

FILE = ".lock"


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder until the block ends; the system lets go of it when the process dies.

    Raises UserError when another process holds it. Systems without ``flock`` are not guarded.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"{what}: {folder} is in use by process {holder}, expected it free; "
                f"wait until that ends, or choose another run_id"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
