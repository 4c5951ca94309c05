"""The files that a configuration names: names and globs resolved, each file once."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chronorun.config.data import DataConfig, DomainBy
from chronorun.errors import UserError

_SAMPLE = 65_536


@dataclass(frozen=True)
class TextFile:
    """A file with text in it, however it was named."""

    path: Path  # absolute, links kept
    domain: str
    size: int  # bytes on the disk
    changed_ns: int

    @property
    def shown(self) -> str:
        """Return the path in printable form, even where its name is not UTF-8."""
        return printable(str(self.path))

    def content_id(self) -> str:
        """Return what the content is known by, wherever the file lies.

        Copies share it, so that they land in the same split. It is a hash of the size and of three
        pieces of 64 KiB; should two files share it, their blocks share splits, which harms nothing.
        """
        digest = hashlib.sha256(str(self.size).encode())
        for place in (0, self.size // 2, max(0, self.size - _SAMPLE)):
            digest.update(self.read(place, _SAMPLE))
        return digest.hexdigest()[:16]

    def read(self, start: int, n_bytes: int) -> bytes:
        """Return a part of the file. Raises UserError where it cannot be read."""
        try:
            with self.path.open("rb") as opened:
                opened.seek(start)
                return opened.read(n_bytes)
        except OSError as error:
            raise UserError(
                f"data: files={self.shown} cannot be read ({error.strerror}), expected a text "
                f"file; check its permissions or remove it from data.files"
            ) from None


def printable(text: str) -> str:
    """Return text in which bytes that are not UTF-8 show as a replacement character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def find_files(config: DataConfig) -> tuple[list[TextFile], int]:
    """Return the files of ``data.files`` in the order given, and how many empty ones it leaves out.

    A name is taken literally where such a file exists, else as a glob by the rules of Python
    (``**`` is any number of folders). A file that several names or links reach counts once.
    Raises UserError for a name that matches no file, and where nothing is left to read.
    """
    found: dict[tuple[int, int], tuple[Path, os.stat_result]] = {}
    empty: dict[Path, None] = {}
    for pattern in config.files:
        for path, status in _matches(pattern):
            if status.st_size == 0:
                empty[path] = None
            else:
                # Links, and a second way to write a path, lead to the same inode.
                found.setdefault((status.st_dev, status.st_ino), (path, status))
    if not found:
        name = printable(str(next(iter(empty))))
        raise UserError(f"data: files={name} is empty, expected text; remove it from data.files")
    paths = [path for path, _ in found.values()]
    files = [
        TextFile(path, domain, status.st_size, status.st_mtime_ns)
        for (path, status), domain in zip(
            found.values(), _domains(paths, config.domain_by), strict=True
        )
    ]
    return files, len(empty)


def _matches(pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    path = Path(_with_home(pattern))
    status = _status(path)
    if status is not None:
        if stat.S_ISDIR(status.st_mode):
            raise UserError(
                f"data: files={printable(str(path))} is a folder, expected text files; "
                f"use a glob such as '{printable(str(path))}/*.txt'"
            )
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"data: files={printable(str(path))} is a {_kind(status.st_mode)}, expected a text "
                f"file; write its content to a file and name that"
            )
        yield Path(os.path.abspath(path)), status  # noqa: PTH100 (resolve() would follow links)
        return
    some = False
    for name in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207
        try:
            matched = Path(name).stat()
        except OSError:
            continue
        # A glob also matches folders, links to nowhere and pipes.
        if stat.S_ISREG(matched.st_mode):
            some = True
            yield Path(os.path.abspath(name)), matched  # noqa: PTH100
    if not some:
        raise UserError(
            f"data: files={printable(pattern)} does not exist, expected a text file or a glob that "
            f"matches one; check the path (it is relative to the current folder)"
        )


def _status(path: Path) -> os.stat_result | None:
    """Return the status of what a path leads to; None where there is nothing."""
    shown = printable(str(path))
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            target = printable(str(path.readlink()))
            raise UserError(
                f"data: files={shown} is a link to {target}, which does not exist, expected a text "
                f"file; mend the link or remove it from data.files"
            ) from None
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        what = "a link that leads to itself" if error.errno == errno.ELOOP else "out of reach"
        raise UserError(
            f"data: files={shown} is {what} ({error.strerror}), expected a text file; "
            f"check the path and its permissions"
        ) from None
    except ValueError:  # a NUL byte
        return None


def _with_home(pattern: str) -> str:
    expanded = os.path.expanduser(pattern)  # noqa: PTH111 (Path's own raises RuntimeError)
    if expanded.startswith("~") and not os.path.lexists(expanded) and "/" in expanded:
        user = expanded.partition("/")[0]
        raise UserError(
            f"data: files={printable(pattern)} begins with {user}, whose home folder is not known, "
            f"expected a path; write the folder out"
        )
    return expanded


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _domains(paths: Sequence[Path], by: DomainBy) -> list[str]:
    """Return the domain of each file; names are shortened as far as they stay different.

    They do not depend on where the files lie or on a link to them: a moved text stays the same.
    """
    if by is DomainBy.none:
        return ["text"] * len(paths)
    paths = [path.resolve() for path in paths]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    if by is DomainBy.folder:
        names = [path.parent.relative_to(root).as_posix() for path in paths]
        return [printable(name) for name in names]
    short = [path.name for path in paths]
    whole = [path.relative_to(root).as_posix() for path in paths]
    return [
        printable(name if short.count(name) == 1 else full)
        for name, full in zip(short, whole, strict=True)
    ]
