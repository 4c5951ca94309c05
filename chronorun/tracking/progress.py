"""Progress on the screen: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from chronorun.config.observing import TrackingConfig
from chronorun.tracking.lines import experts_alive, governance_figures, progress_line
from chronorun.tracking.protocol import RunInfo, Tracker
from chronorun.tracking.summary import render_summary


def progress_tracker(config: TrackingConfig) -> Tracker:
    """Return the tracker for where standard error goes."""
    console = Console(stderr=True, highlight=False)
    if config.progress and console.is_terminal:
        return LiveProgress(console)
    return PlainProgress(console, quiet=not config.progress)


class PlainProgress:
    """One line per evaluation, for files and pipes."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._max_steps = 0

    def _print(self, text: str) -> None:
        if not self.quiet:
            self.console.print(Text(text), soft_wrap=True)

    def start(self, info: RunInfo) -> None:
        """Name the run."""
        self._max_steps = info.max_steps
        self._print(f"run {info.run_id}: {info.run_dir}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the figures of an evaluation."""
        if "val/loss" in metrics:
            self._print(progress_line(step, self._max_steps, metrics))

    def alert(self, step: int, message: str) -> None:
        """Print an alert."""
        self._print(f"step {step}: {message}")

    def notice(self, message: str) -> None:
        """Print a line."""
        self._print(message)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Tables are for trackers with a screen of their own."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Print the summary on standard output."""
        width = None if sys.stdout.isatty() else 100
        Console(highlight=False, width=width).print(render_summary(summary))


class _Figures(ProgressColumn):
    """The newest figures, as much of them as the terminal has room for."""

    def render(self, task: Task) -> Text:
        """Return them as one line."""
        return Text(task.fields.get("figures", ""), no_wrap=True, overflow="ellipsis")


class LiveProgress(PlainProgress):
    """A bar with loss, speed, time left, experts alive; alerts scroll by above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress: Progress | None = None
        self._latest: dict[str, float] = {}

    def start(self, info: RunInfo) -> None:
        """Name the run and show the bar."""
        super().start(info)
        self._progress = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=12),
            _Figures(),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task(
            "train", total=info.max_steps, completed=info.start_step, figures="starting"
        )
        self._progress.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        self._latest.update(metrics)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, figures=_short(self._latest))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take the bar away and print the summary."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        super().finish(summary)


def _short(metrics: Mapping[str, float]) -> str:
    parts = [f"loss {metrics.get('train/loss', float('nan')):.3f}"]
    if "val/loss" in metrics:
        parts.append(f"val {metrics['val/loss']:.3f}")
    parts.append(f"{metrics.get('tokens_per_second', 0) / 1000:.1f}k/s")
    if alive := experts_alive(metrics):
        parts.append(f"experts {alive}")
    figures = governance_figures(metrics)
    return " ".join([*parts, figures]) if figures else " ".join(parts)
