"""How a run ends: whatever went wrong, all that was opened is closed, and the first error told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from chronorun.core.closing import first_problem
from chronorun.core.processes import ALONE, Processes
from chronorun.core.tracker import Tracker
from chronorun.errors import RunInterrupted
from chronorun.training.logs import RunLogs
from chronorun.training.run_folder import finish_run_folder
from chronorun.training.trainer import Trainer


class RunEnd:
    """Around the training of one run: writes its ``summary`` and closes logs and trackers.

    ``trainer`` is set once there is one; ``extra`` is what the summary says beside it. Of several
    processes the first one writes. The error that ended the run is the one that is raised: one that
    a full disk adds at the end says less.
    """

    def __init__(
        self,
        run_id: str,
        run_dir: Path,
        logs: RunLogs,
        trackers: Tracker,
        extra: Mapping[str, Any],
        processes: Processes = ALONE,
    ) -> None:
        self.run_dir, self.logs, self.trackers, self.extra = run_dir, logs, trackers, extra
        self.writes = processes.is_first
        self.trainer: Trainer | None = None
        self.summary: dict[str, Any] = {"run_id": run_id, "status": "failed"}

    def __enter__(self) -> RunEnd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        problem = first_problem([*self._of_trainer(error), *self._closings()])
        if error is None and problem is not None:
            raise problem

    def _of_trainer(self, error: BaseException | None) -> Iterable[Callable[[], object]]:
        trainer = self.trainer
        if trainer is None:
            return
        status = "failed" if error is not None else "completed"
        if isinstance(error, RunInterrupted):
            status = "interrupted"

        def summarise() -> None:
            self.summary = trainer.summary(status, self.extra)

        if self.writes:
            yield lambda: trainer.heartbeat.finish(self.run_dir)
            yield lambda: trainer.scenario.finish(self.run_dir)
        yield summarise
        yield trainer.show_decisions

    def _closings(self) -> Iterable[Callable[[], object]]:
        yield self.logs.close
        if self.writes:
            yield lambda: finish_run_folder(self.run_dir, self.summary, self.logs)
        yield lambda: self.trackers.finish(self.summary)
