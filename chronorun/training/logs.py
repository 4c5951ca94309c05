"""The JSON-lines logs of a run, and what a checkpoint remembers of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chronorun.core.files import sha256_file
from chronorun.core.jsonl import JsonlWriter, LogState, orphan_bytes

NAMES = (
    "metrics",
    "routing_events",
    "snapshots",
    "control_decisions",
    "scenario_events",
    "timings",
)
WALL_CLOCK = "timings"
"""Excluded from the checkpoint's record: a resumed run simply adds to it."""


class RunLog:
    """One log file, created by its first record."""

    def __init__(self, path: Path, resume_at: LogState | None, append: bool = False) -> None:
        self.path = path
        self._append = append
        self._writer = JsonlWriter(path, resume_at=resume_at) if resume_at else None

    def write(self, record: Any) -> None:
        """Append one record."""
        if self._writer is None:
            end = _end_of(self.path) if self._append else None
            self._writer = JsonlWriter(self.path, resume_at=end)
        self._writer.write(record)

    def state(self) -> LogState | None:
        """Return offset and prefix hash; None when nothing was written yet."""
        return self._writer.state() if self._writer else None

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def _end_of(path: Path) -> LogState | None:
    """Return the state of a file after its last whole line."""
    if not path.exists():
        return None
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    return LogState(len(whole), hashlib.sha256(whole).hexdigest())


class RunLogs:
    """All logs of one run; ``resume`` is what ``state`` returned at the checkpoint."""

    def __init__(self, run_dir: Path, resume: Mapping[str, Any] | None = None) -> None:
        self.run_dir = run_dir
        logs: dict[str, RunLog] = {}
        for name in NAMES:
            path = run_dir / f"{name}.jsonl"
            saved = (resume or {}).get(name)
            if name == WALL_CLOCK:
                logs[name] = RunLog(path, None, append=True)
                continue
            if saved is None and path.exists():
                # Written after the checkpoint (or before the first one): kept, but not continued.
                orphan_bytes(path, path.read_bytes())
                path.unlink()
            logs[name] = RunLog(path, LogState(**saved) if saved else None)
        self._logs = logs
        self.metrics = logs["metrics"]
        self.routing_events = logs["routing_events"]
        self.snapshots = logs["snapshots"]
        self.control_decisions = logs["control_decisions"]
        self.scenario_events = logs["scenario_events"]
        self.timings = logs["timings"]

    def state(self) -> dict[str, dict[str, Any] | None]:
        """Return what a checkpoint must know to cut the logs back to this moment."""
        found: dict[str, dict[str, Any] | None] = {}
        for name, log in self._logs.items():
            state = log.state()
            if name != WALL_CLOCK:
                found[name] = vars(state).copy() if state else None
        return found

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of each log file that exists."""
        paths = (log.path for log in self._logs.values())
        return {path.name: sha256_file(path) for path in paths if path.exists()}

    def close(self) -> None:
        """Close every file."""
        for log in self._logs.values():
            log.close()
