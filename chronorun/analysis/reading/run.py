"""The logs of a run, ours or v2's, read in one pass with flat memory, whatever they contain."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from chronorun.core.jsonl import BYTE_ORDER_MARK, decode_line
from chronorun.core.run_files import has_logs, log_file
from chronorun.errors import StorageError, UserError

LONGEST_LINE = 64 << 20
"""Most bytes of one line: a longer one is not from us, and must not fill the memory."""
_PIECE = 1 << 18
_LONG_LINE = 1 << 20
_LONG_TEXT = 1000
_MANY_ITEMS = 10_000
_MOST_NOTICES = 20

T = TypeVar("T", bound=msgspec.Struct)


@dataclass
class Notices:
    """Remarks of a reader for people, such as what it skipped; one line each."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Add a line once; after many there are no more."""
        if line not in self.lines and len(self.lines) < _MOST_NOTICES:
            self.lines.append(line)


def read_records(
    path: Path, notices: Notices | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, record) of a log.

    A torn last line is noted and skipped. Raises StorageError (exit code 3) naming file and line
    for a bad line that is not the last, and UserError for a file that is not there.
    """
    for number, line in _lines(path):
        record = _record(path, number, line, notices)
        if record is not None:
            yield number, record


def read_typed(path: Path, kind: type[T], notices: Notices | None = None) -> Iterator[T]:
    """Yield the records of a log as ``kind``: only its fields, several times as fast.

    A field of another type keeps its default, and very long texts are cut. Otherwise as
    ``read_records``.
    """
    decode = msgspec.json.Decoder(kind).decode_lines
    for number, piece in _pieces(path):
        try:
            if len(piece) > _LONG_LINE:
                raise ValueError
            records = decode(piece)
        except (ValueError, RecursionError):
            # Line by line, to name the bad one or to take the fields that fit.
            yield from typed_lines(path, _numbered(piece, number), kind, notices)
        else:
            yield from records


def _numbered(piece: bytes, number: int) -> Iterator[tuple[int, bytes]]:
    return ((i, line) for i, line in enumerate(io.BytesIO(piece), number) if line.strip())


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, some whole lines); the last may be torn."""
    with open_log(path) as file:
        number, waiting, size = 1, [], 0
        while data := file.read(_PIECE):
            end = data.rfind(b"\n") + 1
            size += len(data)
            if not end:
                waiting.append(data)
                if size > LONGEST_LINE:
                    raise _too_long(path, number)
                continue
            piece = b"".join((*waiting, data[:end]))
            yield number, piece
            number += piece.count(b"\n")
            waiting, size = [data[end:]], len(data) - end
        if rest := b"".join(waiting):
            yield number, rest


def typed_lines(
    path: Path,
    lines: Iterable[tuple[int, bytes]],
    kind: type[T],
    notices: Notices | None = None,
) -> Iterator[T]:
    """Yield the records of numbered lines of a log, as ``read_typed``."""
    decode = msgspec.json.Decoder(kind).decode
    for number, line in lines:
        try:
            if len(line) > _LONG_LINE:
                raise ValueError
            yield decode(line.removeprefix(BYTE_ORDER_MARK))
        except (ValueError, RecursionError):
            record = _record(path, number, line, notices)
            if record is not None:
                yield _as_far_as_it_fits(kind, record, f"{path} line {number}", notices)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open_log(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise _too_long(path, number)
            if line.strip():
                yield number, line


def open_log(path: Path) -> io.BufferedReader:
    """Open a log after its byte order mark, if an editor has added one.

    Raises UserError for what is no file.
    """
    if not path.is_file():
        raise UserError(f"log: {path} is not a file, expected a .jsonl log; name another path")
    file = path.open("rb")
    if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
        file.seek(0)
    return file


def sha256_log(path: Path) -> str:
    """Return the hex sha256 of a log as it was written: without a byte order mark."""
    with open_log(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _too_long(path: Path, number: int) -> StorageError:
    return StorageError(
        f"log: {path} line {number} has more than {LONGEST_LINE >> 20} MiB, expected one record; "
        f"restore the file"
    )


def _record(path: Path, number: int, line: bytes, notices: Notices | None) -> dict[str, Any] | None:
    try:
        record = decode_line(line)
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            if notices is not None:
                notices.add(f"{path} line {number} is torn and was skipped")
            return None
        raise StorageError(
            f"log: {path} line {number} is not JSON ({error}); restore the file"
        ) from error
    if not isinstance(record, dict):
        raise StorageError(
            f"log: {path} line {number} is a {type(record).__name__}, expected an object; "
            f"restore the file"
        )
    return record


def _as_far_as_it_fits(
    kind: type[T], record: Mapping[str, Any], where: str, notices: Notices | None
) -> T:
    found: dict[str, Any] = {}
    for spec in msgspec.structs.fields(kind):
        if spec.encode_name not in record:
            continue
        value = _cut(record[spec.encode_name])
        try:
            found[spec.name] = _as(spec.type, value)
        except (ValueError, OverflowError):
            if notices is not None:
                notices.add(f"{where}: {spec.encode_name} is not what it should be, passed over")
    return kind(**found)


def _as(kind: Any, value: Any) -> Any:
    if kind is msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(value))
    if isinstance(value, float) and value == int(value):
        # Other writers may write a step as 15000.0.
        value = int(value) if float not in (kind, *get_args(kind)) else value
    return msgspec.convert(value, kind)


def _cut(value: Any, depth: int = 8) -> Any:
    """Return a value of a size that can be kept."""
    if isinstance(value, str):
        return value[:_LONG_TEXT].encode(errors="replace").decode()
    if isinstance(value, list):
        return [_cut(item, depth - 1) for item in value[:_MANY_ITEMS]] if depth else None
    if isinstance(value, dict):
        kept = list(value.items())[:_MANY_ITEMS]
        return {_cut(k): _cut(v, depth - 1) for k, v in kept} if depth else None
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return None
    return value


@dataclass(frozen=True)
class Run:
    """A run's folder; its logs are read anew by each call, so that memory stays flat."""

    folder: Path
    notices: Notices = field(default_factory=Notices)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run folder. Raises UserError for a folder without logs."""
        if not has_logs(path):
            raise UserError(
                f"run: {path} holds no log of a run, expected a folder with metrics.jsonl or "
                f"lifecycle_decisions.jsonl; name one such as outputs/run"
            )
        return cls(path)

    def path(self, log: str) -> Path:
        """Return where a log is, or would be."""
        return self.folder / log_file(log)

    def records(self, log: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a log; none where the run has none of that name."""
        if self.path(log).is_file():
            yield from (record for _, record in read_records(self.path(log), self.notices))

    def typed(self, log: str, kind: type[T]) -> Iterator[T]:
        """Yield the records of a log as ``kind``; none where the run has none of that name."""
        if self.path(log).is_file():
            yield from read_typed(self.path(log), kind, self.notices)

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON file such as summary.json; empty where it is missing."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            loaded = msgspec.json.decode(path.read_bytes().removeprefix(BYTE_ORDER_MARK))
        except (ValueError, RecursionError) as error:
            raise StorageError(f"run: {path} is not JSON ({error}); restore the file") from error
        if not isinstance(loaded, dict):
            raise StorageError(f"run: {path} is no object, expected one; restore the file")
        return loaded
