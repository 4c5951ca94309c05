"""The end of a run: everything is written and closed, whatever went wrong; the first error wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from chronorun.core.closing import first_problem
from chronorun.errors import RunInterrupted
from chronorun.training.context import RunContext
from chronorun.training.run_folder import finish_run_folder
from chronorun.training.trainer import Trainer


class RunEnd:
    """Context manager around one run: writes its ``summary`` and closes logs and trackers.

    ``trainer`` is set as soon as it exists; ``extra`` is added to its summary. Of several processes
    the first one writes. The error that ended the run is raised, not one that follows from it, such
    as a full disk at the end.
    """

    def __init__(self, context: RunContext, extra: Mapping[str, Any]) -> None:
        self.context, self.extra = context, extra
        self.writes = context.processes.is_first
        self.trainer: Trainer | None = None
        self.summary: dict[str, Any] = {"run_id": context.config.run_id, "status": "failed"}

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
            for part in trainer.parts.values():
                yield partial(part.finish, self.context.run_dir)
        yield summarise
        yield trainer.show_decisions

    def _closings(self) -> Iterable[Callable[[], object]]:
        context = self.context
        yield context.logs.close
        if self.writes:
            yield lambda: finish_run_folder(context.run_dir, self.summary, context.logs)
        yield lambda: context.tracker.finish(self.summary)
