"""All trackers of a run as one, and the choice of those that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from chronorun.config.run import RunConfig
from chronorun.core.run_files import TRAIN_LOG
from chronorun.core.tracker import RunInfo, Tracker
from chronorun.tracking.logfile import LogFileTracker
from chronorun.tracking.progress import progress_tracker
from chronorun.tracking.wandb_tracker import WandbTracker, chosen_mode


class TrackerGroup:
    """Passes every call on to each of its trackers.

    One that raises is named once to the others, then left alone until ``finish``: what only shows
    a run must not end it.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)
        self._failed: list[Tracker] = []

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in self.trackers:
            if not any(tracker is failed for failed in self._failed):
                self._guard(tracker, call)

    def _guard(self, tracker: Tracker, call: Callable[[Tracker], None]) -> None:
        try:
            call(tracker)
        except Exception as error:
            if not any(tracker is failed for failed in self._failed):
                self._failed.append(tracker)
                name = type(tracker).__name__
                self.notice(f"{name} failed ({type(error).__name__}: {error}); going on without it")

    def start(self, info: RunInfo) -> None:
        """Start all."""
        self._each(lambda tracker: tracker.start(info))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log to all."""
        self._each(lambda tracker: tracker.log(step, metrics))

    def alert(self, step: int, message: str) -> None:
        """Alert all."""
        self._each(lambda tracker: tracker.alert(step, message))

    def notice(self, message: str) -> None:
        """Tell all."""
        self._each(lambda tracker: tracker.notice(message))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Hand a table to all."""
        self._each(lambda tracker: tracker.table(name, columns, rows))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Finish all, also those that failed, the last first: the summary on screen comes last."""
        for tracker in reversed(self.trackers):
            self._guard(tracker, lambda each: each.finish(summary))


def build_trackers(
    config: RunConfig, run_dir: Path, console: Console | None = None, *, quiet: bool = False
) -> TrackerGroup:
    """Return the trackers that the configuration asks for; progress goes to ``console``.

    Without one it goes to standard error, as a live bar or as lines; ``quiet``: nowhere.
    """
    group = TrackerGroup([LogFileTracker(run_dir / TRAIN_LOG)])
    if not quiet:
        group.trackers.insert(0, progress_tracker(config.tracking, console))
    if chosen_mode(config.tracking.wandb) != "disabled":
        group.trackers.append(WandbTracker(config.tracking.wandb, group.notice))
    return group
