"""The JSON-lines logs of a run, and what a checkpoint remembers of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chronorun.core.closing import first_problem
from chronorun.core.files import fsync_dir, sha256_file
from chronorun.core.jsonl import JsonlWriter, LogState, orphan_bytes, refuse_link
from chronorun.core.run_files import LOGS, log_file
from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.record.logs import LifecycleLogs

AT_ONCE = ("metrics", "timings")
"""Every run has these from its start; the others appear with their first record."""
WALL_CLOCK = "timings"
"""Excluded from the checkpoint's record: a resumed run simply adds to it."""


class RunLog:
    """One log file, created by its first record unless it is continued.

    Without ``writes`` it is another process's, and every method does nothing.
    """

    def __init__(self, path: Path, resume_at: LogState | None, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._writer = JsonlWriter(path, resume_at=resume_at) if resume_at else None

    def create(self) -> None:
        """Make sure that the file exists, empty if need be."""
        if self.writes:
            self._open()

    def write(self, record: Any) -> None:
        """Append one record."""
        if self.writes:
            self._open().write(record)

    def write_all(self, records: Sequence[Any]) -> None:
        """Append several."""
        if self.writes:
            self._open().write_all(records)

    def state(self) -> LogState | None:
        """Make the records durable and return offset and prefix hash; None without a file."""
        if self._writer is None:
            return None
        # The checkpoint must not outlive, in a power cut, the lines it counts on.
        _sync(self.path)
        return self._writer.state()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> JsonlWriter:
        if self._writer is None:
            self._writer = JsonlWriter(self.path)
        return self._writer


def _sync(path: Path) -> None:
    # Flushing a file through a second descriptor flushes all of it, whichever descriptor wrote it.
    fsync_dir(path)


def _end_of(path: Path) -> LogState:
    """Return the state of a file after its last whole line."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    return LogState(len(whole), hashlib.sha256(whole).hexdigest())


def _set_aside(path: Path) -> None:
    """Keep a log that the checkpoint does not know under ``*.orphaned-N``."""
    content = path.read_bytes()
    if content:
        orphan_bytes(path, content)
    path.unlink()


class RunLogs:
    """All logs of one run; ``resume`` is what ``state`` returned at the checkpoint.

    Each log is cut back to what the checkpoint knew of it, and the rest kept as ``*.orphaned-N``.
    Raises StorageError when a log's beginning is no longer what it was. Without ``writes`` the
    files are another process's, and left alone.
    """

    def __init__(
        self, run_dir: Path, resume: Mapping[str, Any] | None = None, *, writes: bool = True
    ) -> None:
        self.run_dir = run_dir
        self._logs = {name: _log(run_dir, name, resume or {}, writes) for name in LOGS}
        for name in AT_ONCE:
            self._logs[name].create()
        self.metrics = self._logs["metrics"]
        self.routing_events = self._logs["routing_events"]
        self.snapshots = self._logs["snapshots"]
        self.control_decisions = self._logs["control_decisions"]
        self.scenario_events = self._logs["scenario_events"]
        self.timings = self._logs["timings"]
        self.lifecycle = LifecycleLogs(
            decisions=self._logs["lifecycle_decisions"],
            evaluations=self._logs["lifecycle_evaluations"],
            transitions=self._logs["expert_transitions"],
            basins=self._logs["basins"],
            timings=self.timings,
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must know to cut the logs back to this moment."""
        found = {name: log.state() for name, log in self._logs.items() if name != WALL_CLOCK}
        fsync_dir(self.run_dir)
        return to_plain(found)

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of each log file that exists, by file name."""
        paths = (log.path for log in self._logs.values())
        return {path.name: sha256_file(path) for path in paths if path.exists()}

    def close(self) -> None:
        """Close every file; where that fails for some, raise the first one's error at the end."""
        problem = first_problem(log.close for log in self._logs.values())
        if problem is not None:
            raise problem


def _log(run_dir: Path, name: str, resume: Mapping[str, Any], writes: bool) -> RunLog:
    path = run_dir / log_file(name)
    if not writes:
        return RunLog(path, None, writes=False)
    refuse_link(path)
    if name == WALL_CLOCK:
        return RunLog(path, _end_of(path))
    saved = resume.get(name)
    if saved is None and path.exists():
        _set_aside(path)
    return RunLog(path, from_plain(LogState, saved) if saved else None)
