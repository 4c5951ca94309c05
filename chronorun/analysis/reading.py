"""Reads the logs of a run, ours or v2's: in one pass, with flat memory, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chronorun.core.jsonl import decode_line
from chronorun.errors import StorageError, UserError

LOGS = (
    "metrics",
    "routing_events",
    "snapshots",
    "control_decisions",
    "scenario_events",
    "lifecycle_decisions",
    "lifecycle_evaluations",
    "expert_transitions",
    "basins",
    "timings",
)
LONGEST_LINE = 64 << 20
"""Bytes of one line at most: what is longer is no log of ours, and must not fill the memory."""


@dataclass
class Notices:
    """What a reader passed over, for people: one line each."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Add a line once."""
        if line not in self.lines:
            self.lines.append(line)


def read_records(
    path: Path, notices: Notices | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, record) of a log.

    A torn last line is noted and skipped. Raises StorageError (exit code 3) naming file and line
    for a bad line that is not the last, and UserError for a file that is not there.
    """
    if not path.is_file():
        raise UserError(f"log: {path} is not a file, expected a .jsonl log; name another path")
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise StorageError(
                    f"log: {path} line {number} has more than {LONGEST_LINE >> 20} MiB, expected "
                    f"one record; restore the file"
                )
            if not line.strip():
                continue
            record = _record(path, number, line, notices)
            if record is not None:
                yield number, record


def _record(path: Path, number: int, line: bytes, notices: Notices | None) -> dict[str, Any] | None:
    try:
        record = decode_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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


@dataclass(frozen=True)
class Run:
    """A run's folder; its logs are read anew by each call, so that memory stays flat."""

    folder: Path
    notices: Notices = field(default_factory=Notices)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run folder. Raises UserError for a folder without logs."""
        if not path.is_dir() or not any((path / f"{name}.jsonl").is_file() for name in LOGS):
            raise UserError(
                f"run: {path} holds no log of a run, expected a folder with metrics.jsonl or "
                f"lifecycle_decisions.jsonl; name one such as outputs/run"
            )
        return cls(path)

    def path(self, log: str) -> Path:
        """Return where a log is, or would be."""
        assert log in LOGS, log
        return self.folder / f"{log}.jsonl"

    def records(self, log: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a log; none where the run has none of that name."""
        if self.path(log).is_file():
            yield from (record for _, record in read_records(self.path(log), self.notices))

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON file such as summary.json; empty where it is missing."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            loaded = msgspec.json.decode(path.read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StorageError(f"run: {path} is not JSON ({error}); restore the file") from error
        if not isinstance(loaded, dict):
            raise StorageError(f"run: {path} is no object, expected one; restore the file")
        return loaded
