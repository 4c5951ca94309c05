"""A file system whose k-th operation fails, seen from inside the process."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = (
    "open",
    "write",
    "fsync",
    "rename",
    "replace",
    "unlink",
    "rmdir",
    "mkdir",
    "truncate",
    "fchmod",
    "stat",
    "scandir",
)
CRASH = 99
"""Exit code of a process that ended in the middle of an operation."""


class Disk:
    """Counts the operations below one folder; the ``at``-th fails as ``how`` says.

    ``how`` is an errno (``lasting``: all later writes fail as well, as on a full disk) or ``exit``.
    """

    def __init__(self, folder: Path, at: int, how: int | str, *, lasting: bool = False) -> None:
        self.folder = os.path.abspath(folder) + os.sep  # noqa: PTH100
        self.at, self.how, self.lasting = at, how, lasting
        self.operations = 0
        self.failed = False

    def operate(self, *, writes: bool = True) -> None:
        self.operations += 1
        if self.operations == self.at or (self.failed and self.lasting and writes):
            self.failed = True
            if isinstance(self.how, str):
                os._exit(CRASH)
            raise OSError(self.how, os.strerror(self.how))

    def concerns(self, target: Any) -> bool:
        if isinstance(target, int):
            try:
                target = Path(f"/proc/self/fd/{target}").readlink()
            except OSError:
                return False
        # Not Path.absolute: it would ask the disk that is being faked.
        return os.path.abspath(os.fspath(target)).startswith(self.folder)  # noqa: PTH100


class Handle:
    """A file of a faulty disk: a write that fails leaves half of its bytes behind."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        try:
            self._disk.operate()
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return int(self._file.write(data))

    def read(self, *arguments: Any) -> Any:
        self._disk.operate(writes=False)
        return self._file.read(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def _faulty(disk: Disk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    writes = name not in ("open", "stat", "scandir", "unlink", "rmdir")

    def call(*arguments: Any, **named: Any) -> Any:
        if arguments and disk.concerns(arguments[0]):
            try:
                disk.operate(writes=writes)
            except OSError:
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise
        return real(*arguments, **named)

    return call


@contextmanager
def faulty(disk: Disk) -> Iterator[Disk]:
    """Put the disk under ``os`` and ``open`` while the context lasts."""
    real_open = io.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if not disk.concerns(file):
            return real_open(file, mode, *arguments, **named)
        disk.operate(writes="r" not in mode)
        return Handle(real_open(file, mode, *arguments, **named), disk)

    with mock.patch.object(io, "open", opened):
        patches = [
            mock.patch.object(os, name, _faulty(disk, name, getattr(os, name))) for name in CALLS
        ]
        for patch in patches:
            patch.start()
        try:
            yield disk
        finally:
            for patch in patches:
                patch.stop()


MODES: tuple[tuple[str, int | str, bool], ...] = (
    ("EIO", errno.EIO, False),
    ("ENOSPC", errno.ENOSPC, True),
    ("exit", "exit", False),
)
