"""All runs below a folder, replayed one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay.config import PlannedRunError
from chronorun.analysis.replay.derive import replay_run
from chronorun.analysis.replay.result import Replay
from chronorun.errors import StorageError, UserError


@dataclass
class OneReplay:
    """A run of a sweep; ``why_not`` says why it could not be replayed."""

    path: str
    replay: Replay | None = None
    why_not: str | None = None

    @property
    def is_reproduced(self) -> bool:
        """Whether everything in the run was derived again."""
        return self.replay is not None and self.replay.is_reproduced


@dataclass
class SweepReplay:
    """What replaying a folder of runs found; decisions are those of lifecycle and control.

    ``planned`` are the runs whose edits a plan decided: there is nothing to derive them from.
    """

    path: str
    runs: list[OneReplay] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)

    @property
    def is_reproduced(self) -> bool:
        """Whether every run was."""
        return all(one.is_reproduced for one in self.runs)

    @property
    def logged(self) -> int:
        """Decisions in the logs."""
        found = [one.replay for one in self.runs if one.replay is not None]
        return sum(r.lifecycle.logged + r.control.logged for r in found)

    @property
    def reproduced(self) -> int:
        """Decisions that were derived again."""
        found = [one.replay for one in self.runs if one.replay is not None]
        return sum(r.lifecycle.reproduced + r.control.reproduced for r in found)

    def words(self) -> str:
        """Return what was found, in a line."""
        good = sum(one.is_reproduced for one in self.runs)
        others = f"; {len(self.planned)} more followed a plan" if self.planned else ""
        return (
            f"replay: {good} of {len(self.runs)} runs, {self.reproduced} of {self.logged} "
            f"decisions reproduced{others}"
        )


def replay_sweep(place: Path, folders: Iterable[Path]) -> SweepReplay:
    """Replay runs; one that cannot be replayed is told and stops no other."""
    sweep = SweepReplay(str(place))
    for folder in folders:
        one = OneReplay(str(folder))
        try:
            one.replay = replay_run(Run.open(folder))
        except PlannedRunError:
            sweep.planned.append(str(folder))
            continue
        except (UserError, StorageError) as error:
            one.why_not = str(error)
        sweep.runs.append(one)
    return sweep
