"""JSON lines: one record a line, appended in whole; a crash can tear at most the last line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import msgspec

from chronorun.core.files import fsync_dir
from chronorun.core.text import printable
from chronorun.errors import StorageError

_PIECE = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors put before UTF-8 text; it says nothing."""


def encode_json(value: Any, **options: Any) -> bytes:
    """Return a value as JSON; ``options`` are those of ``msgspec.json.encode``.

    Names that are no UTF-8 come with their bytes written out.
    """
    try:
        return msgspec.json.encode(value, **options)
    except UnicodeEncodeError:
        hook = options.get("enc_hook")
        return msgspec.json.encode(
            printable(msgspec.to_builtins(value, str_keys=True, enc_hook=hook)), **options
        )


class Record:
    """Base of the dataclasses that are one line of a log: the fields are its keys."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return the line's record."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back, also one of v2 or another version; unknown fields are ignored."""
        return cls(**{k: v for k, v in record.items() if k in cls.__dataclass_fields__})


@dataclass(frozen=True)
class LogState:
    """Length of a log and the sha256 of all its bytes, as stored in a checkpoint."""

    offset: int
    sha256: str


EMPTY_LOG = LogState(0, hashlib.sha256().hexdigest())
"""A log before its first record."""


class JsonlWriter:
    """Appends records to a file that stays open.

    With ``resume_at`` the file is first cut back to that state: its prefix must be intact, and what
    lies beyond is kept beside it as ``<name>.orphaned-N``.
    """

    def __init__(self, path: Path | str, *, resume_at: LogState | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._encoder = msgspec.json.Encoder()
        self._hash = hashlib.sha256()
        self._offset = 0
        refuse_link(self.path)
        if resume_at is not None:
            self._cut_back(resume_at)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if resume_at is None and (size := os.fstat(self._fd).st_size):
            os.close(self._fd)
            raise StorageError(
                f"log: {self.path} holds {size} bytes already, expected a new file; "
                f"resume the run or choose another folder"
            )

    def _cut_back(self, state: LogState) -> None:
        with self.path.open("rb") if self.path.exists() else io.BytesIO() as file:
            self._take_prefix(file, state)
            if file.read(1):
                file.seek(state.offset)
                _orphan(self.path, file)
                os.truncate(self.path, state.offset)

    def _take_prefix(self, file: BinaryIO, state: LogState) -> None:
        # In pieces: the log of a long run does not fit into memory gladly.
        while piece := file.read(min(_PIECE, state.offset - self._offset)):
            self._hash.update(piece)
            self._offset += len(piece)
        if self._hash.hexdigest() != state.sha256:
            raise StorageError(
                f"log: {self.path} differs from what the checkpoint recorded in its first "
                f"{state.offset} bytes; resume from another checkpoint or restore the file"
            )

    def write(self, record: Any) -> None:
        """Append one record (a dict, dataclass or msgspec struct).

        Floats read back exactly, except that JSON has no NaN: it becomes null. Raises StorageError
        when the disk does not take the line.
        """
        self.write_all([record])

    def write_all(self, records: Sequence[Any]) -> None:
        """Append several records, as ``write`` would, in one go."""
        try:
            lines = self._encoder.encode_lines(records)
        except UnicodeEncodeError:
            lines = b"".join(encode_json(record) + b"\n" for record in records)
        try:
            written = os.write(self._fd, lines)
        except OSError as error:
            raise StorageError(
                f"log: {self.path} could not be written ({error.strerror}); "
                f"free some disk space or check the folder, then resume"
            ) from error
        if written != len(lines):
            raise StorageError(
                f"log: {self.path} could not take a whole line; free some disk space"
            )
        self._hash.update(lines)
        self._offset += len(lines)

    def state(self) -> LogState:
        """Return the log's length and hash as of the last record."""
        return LogState(self._offset, self._hash.hexdigest())

    def close(self) -> None:
        """Flush to the disk and close; further calls do nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def refuse_link(path: Path) -> None:
    """Raise StorageError unless ``path`` is a plain file or nothing.

    A run folder may come from anyone: a link in it must not have a file elsewhere cut or written.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise StorageError(
            f"log: {path} is not a plain file, expected one; put the file itself there, then resume"
        )


def orphan_bytes(path: Path, tail: bytes) -> Path:
    """Keep bytes that a resume cuts off, in the first free ``<name>.orphaned-N``."""
    return _orphan(path, io.BytesIO(tail))


def _orphan(path: Path, tail: BinaryIO) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.orphaned-{number}")).exists():
        number += 1
    with kept.open("xb") as file:
        shutil.copyfileobj(tail, file, _PIECE)
        file.flush()
        # The original is cut right afterwards; a power cut must not lose both.
        os.fsync(file.fileno())
    fsync_dir(path.parent)
    return kept


def read_jsonl(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the records of a log; a torn last line is dropped.

    Raises StorageError naming file and line for a bad line that is not the last.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = decode_line(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    return
                raise StorageError(
                    f"log: {path} line {number} is not JSON ({error}); restore the file"
                ) from error
            if not isinstance(record, dict):
                raise StorageError(
                    f"log: {path} line {number} is a {type(record).__name__}, expected an object; "
                    f"restore the file"
                )
            yield record


def decode_line(line: bytes) -> Any:
    """Return what a line of JSON says. Raises msgspec.DecodeError (a ValueError)."""
    line = line.removeprefix(BYTE_ORDER_MARK)
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:
        # Python's json writes NaN and Infinity, which are not JSON; v2's logs may hold them.
        if b"NaN" not in line and b"Infinity" not in line:
            raise
        try:
            return json.loads(line)
        except ValueError:
            pass
        raise
