"""The four logs of the lifecycle, wherever their records go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chronorun.core.jsonl import JsonlWriter
from chronorun.core.run_files import LIFECYCLE_LOGS, log_file


class RecordWriter(Protocol):
    """What takes records."""

    def write(self, record: Any) -> None:
        """Append one record."""

    def write_all(self, records: Sequence[Any]) -> None:
        """Append several."""


class Nowhere:
    """Takes records and forgets them."""

    def write(self, record: Any) -> None:
        """Do nothing."""

    def write_all(self, records: Sequence[Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class LifecycleLogs:
    """Where decisions, evaluations, transitions and basins are written.

    Seconds go to ``timings``, apart: they alone differ between equal runs.
    """

    decisions: RecordWriter
    evaluations: RecordWriter
    transitions: RecordWriter
    basins: RecordWriter
    timings: RecordWriter = field(default_factory=Nowhere)

    @classmethod
    def nowhere(cls) -> LifecycleLogs:
        """Return logs that forget."""
        return cls(*(Nowhere() for _ in LIFECYCLE_LOGS))

    @classmethod
    def in_folder(cls, folder: str | Path) -> LifecycleLogs:
        """Open new log files in a folder. Raises StorageError where one holds records already."""
        return cls(*(JsonlWriter(Path(folder) / log_file(name)) for name in LIFECYCLE_LOGS))
