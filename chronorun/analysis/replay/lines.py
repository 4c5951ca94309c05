"""What a replay reads and how it compares: logs line by line, and the first difference."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from chronorun.analysis.reading.run import Run, read_records
from chronorun.errors import StorageError

T = TypeVar("T")

MISSING = "(missing)"
"""Stands for a record or a field that one of the two sides does not have."""


@dataclass(frozen=True)
class Line:
    """One record of a log and where it stands."""

    file: str
    number: int
    record: dict[str, Any]
    folder: Path

    def typed(self, kind: type[T], field: str | None = None) -> T:
        """Return the record, or a field of it, as a dataclass. Raises StorageError."""
        value = self.record if field is None else self.record.get(field)
        try:
            return msgspec.convert(value, kind)
        except (msgspec.ValidationError, OverflowError) as error:
            raise StorageError(
                f"replay: {self.folder / self.file} line {self.number} is not what it should be "
                f"({error}); restore the file"
            ) from error


@dataclass(frozen=True)
class Difference:
    """The first place where a log and the derivation part; line 0 speaks of the whole file."""

    file: str
    line: int
    field: str
    logged: Any
    derived: Any
    step: int | None = None
    layer_id: int | None = None


class Differs(Exception):
    """A log does not say what was derived."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


class LineStream:
    """A log that is read line by line; empty where the run has none of that name."""

    def __init__(self, run: Run, log: str) -> None:
        self._path, self._notices = run.path(log), run.notices
        self.file = self._path.name
        self._lines = self._read()
        self._ahead: Line | None = None
        self.number = 0

    def _read(self) -> Iterator[Line]:
        if self._path.is_file():
            for number, record in read_records(self._path, self._notices):
                yield Line(self.file, number, record, self._path.parent)

    def peek(self) -> Line | None:
        """Return the next line without taking it; None at the end."""
        if self._ahead is None:
            self._ahead = next(self._lines, None)
        return self._ahead

    def take(self) -> Line | None:
        """Return the next line; None at the end."""
        line, self._ahead = self.peek(), None
        if line is not None:
            self.number = line.number
        return line

    def expect(self, step: int, what: str, layer_id: int | None = None) -> Line:
        """Return the next line. Raises Differs where the log has ended."""
        line = self.take()
        if line is None:
            self.fail(self.number + 1, "record", MISSING, what, step, layer_id)
        return line

    def expect_end(self) -> None:
        """Raise Differs where the log goes on though nothing more was derived."""
        line = self.take()
        if line is not None:
            self.fail(line.number, "record", line.record, MISSING, _step_of(line.record))

    def fail(
        self,
        number: int,
        field: str,
        logged: Any,
        derived: Any,
        step: int | None = None,
        layer_id: int | None = None,
    ) -> NoReturn:
        """Raise Differs."""
        raise Differs(Difference(self.file, number, field, logged, derived, step, layer_id))


def check(line: Line, derived: Mapping[str, Any], besides: Collection[str] = ()) -> None:
    """Raise Differs unless the record says exactly what was derived; ``besides`` are not read."""
    for name, value in derived.items():
        if name not in besides:
            compare(line, name, line.record.get(name, MISSING), as_json(value))


def compare(line: Line, field: str, logged: Any, derived: Any) -> None:
    """Raise Differs unless the two sides of a field, both plain JSON data, are equal."""
    found = first_difference(logged, derived, field)
    if found is not None:
        raise Differs(at(line, *found))


def at(line: Line, field: str, logged: Any, derived: Any) -> Difference:
    """Return a difference at a line."""
    step, layer_id = _step_of(line.record), line.record.get("layer_id")
    layer_id = layer_id if isinstance(layer_id, int) else None
    return Difference(line.file, line.number, field, logged, derived, step, layer_id)


def first_difference(logged: Any, derived: Any, path: str) -> tuple[str, Any, Any] | None:
    """Return (path, logged, derived) of the first part in which two JSON values differ."""
    if isinstance(logged, dict) and isinstance(derived, dict):
        for key in {**derived, **logged}:
            found = first_difference(
                logged.get(key, MISSING), derived.get(key, MISSING), f"{path}.{key}"
            )
            if found is not None:
                return found
        return None
    if isinstance(logged, list) and isinstance(derived, list):
        return _first_in_list(logged, derived, path)
    same = logged == derived and isinstance(logged, bool) is isinstance(derived, bool)
    return None if same else (path, logged, derived)


def _first_in_list(logged: list[Any], derived: list[Any], path: str) -> tuple[str, Any, Any] | None:
    for index in range(max(len(logged), len(derived))):
        found = first_difference(
            logged[index] if index < len(logged) else MISSING,
            derived[index] if index < len(derived) else MISSING,
            f"{path}[{index}]",
        )
        if found is not None:
            return found
    return None


def near(line: Line, field: str, logged: float, derived: float, tolerance: float) -> None:
    """Raise Differs unless two numbers agree within an absolute tolerance."""
    if not abs(logged - derived) <= tolerance:
        raise Differs(at(line, field, logged, derived))


def as_json(value: Any) -> Any:
    """Return a value as it would read back from a log."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _step_of(record: Mapping[str, Any]) -> int | None:
    step = record.get("step")
    return step if isinstance(step, int) else None
