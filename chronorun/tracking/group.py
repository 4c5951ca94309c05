"""All trackers of a run behind one, and which ones a configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chronorun.config.observing import WandbMode
from chronorun.config.run import RunConfig
from chronorun.tracking.logfile import LogFileTracker
from chronorun.tracking.progress import progress_tracker
from chronorun.tracking.protocol import RunInfo, Tracker


class TrackerGroup:
    """Passes every call on to each of its trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)

    def start(self, info: RunInfo) -> None:
        """Start all."""
        for tracker in self.trackers:
            tracker.start(info)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log to all."""
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def alert(self, step: int, message: str) -> None:
        """Alert all."""
        for tracker in self.trackers:
            tracker.alert(step, message)

    def notice(self, message: str) -> None:
        """Tell all."""
        for tracker in self.trackers:
            tracker.notice(message)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Hand a table to all."""
        for tracker in self.trackers:
            tracker.table(name, columns, rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Finish all, the last first, so that the summary on screen comes after the rest."""
        for tracker in reversed(self.trackers):
            tracker.finish(summary)


def build_trackers(config: RunConfig, run_dir: Path) -> TrackerGroup:
    """Return the trackers that the configuration asks for."""
    screen = progress_tracker(config.tracking)
    trackers: list[Tracker] = [screen, LogFileTracker(run_dir / "train.log")]
    if config.tracking.wandb.mode is not WandbMode.disabled:
        from chronorun.tracking.wandb_tracker import WandbTracker

        trackers.append(WandbTracker(config.tracking.wandb, screen.notice))
    return TrackerGroup(trackers)
