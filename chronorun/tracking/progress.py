"""Progress on the screen: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from chronorun.config.observing import TrackingConfig
from chronorun.core.screen import progress_screen, summary_screen
from chronorun.core.text import one_line
from chronorun.core.tracker import RunInfo
from chronorun.tracking.lines import Part, figures, fit, progress_line
from chronorun.tracking.summary import render_summary

MIN_BAR, MAX_BAR = 8, 30


def progress_tracker(config: TrackingConfig, console: Console | None = None) -> PlainProgress:
    """Return the tracker for where ``console`` (standard error if not given) goes."""
    console = console or progress_screen()
    if config.progress and console.is_terminal and not console.is_dumb_terminal:
        return LiveProgress(console)
    return PlainProgress(console, show_figures=config.progress)


class PlainProgress:
    """One line per logged step, for files and pipes. Results go to ``results`` (standard output).

    Without ``show_figures`` only notices, alerts and the summary are printed.
    """

    def __init__(
        self,
        console: Console,
        *,
        show_figures: bool = True,
        results: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.show_figures = show_figures
        self._results = results
        self._clock = clock
        self._info: RunInfo | None = None
        self._started = clock()
        self._step = 0

    def _print(self, text: str) -> None:
        # Text objects carry no markup; a pipe gets the whole line at any width.
        self.console.print(Text(one_line(text)), soft_wrap=not self.console.is_terminal)

    def start(self, info: RunInfo) -> None:
        """Name the run."""
        self._info, self._step, self._started = info, info.start_step, self._clock()
        self._print(f"run {info.run_id}: {info.run_dir}")

    def eta_seconds(self) -> float:
        """Return the time left at the run's mean pace so far; NaN before the first step."""
        if self._info is None or self._step <= self._info.start_step:
            return math.nan
        elapsed = self._clock() - self._started
        pace = elapsed / (self._step - self._info.start_step)
        return pace * (self._info.max_steps - self._step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the figures of a step."""
        self._step = step
        if self._info is not None and self.show_figures:
            self._print(
                progress_line(step, self._info.max_steps, metrics, eta_seconds=self.eta_seconds())
            )

    def alert(self, step: int, message: str) -> None:
        """Print an alert."""
        self._print(f"step {step}: {message}")

    def notice(self, message: str) -> None:
        """Print a line."""
        self._print(message)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Tables are for trackers with a screen of their own."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Print the summary."""
        start = self._info.population if self._info is not None else {}
        (self._results or summary_screen()).print(render_summary(summary, start), crop=False)


class LiveProgress(PlainProgress):
    """A bar with loss, speed, time left, experts alive; alerts scroll by above it."""

    def __init__(self, console: Console, **options: Any) -> None:
        super().__init__(console, **options)
        self._live: Live | None = None
        self._latest: dict[str, float] = {}

    def start(self, info: RunInfo) -> None:
        """Name the run and show the bar."""
        super().start(info)
        self._latest = {f"moe/L{k}/num_experts": float(n) for k, n in info.population.items()}
        self._live = Live(self, console=self.console, transient=True, refresh_per_second=2)
        self._live.start(refresh=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        # Replaced, never changed in place: the refreshing thread may be reading the old one.
        self._latest = self._latest | dict(metrics)
        self._step = step

    def alert(self, step: int, message: str) -> None:
        """Print an alert above the bar, cut to the terminal's width (train.log has it whole)."""
        line = Text(one_line(f"step {step}: {message}"), style="yellow")
        self.console.print(line, no_wrap=True, overflow="ellipsis", crop=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take the bar away and print the summary."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        super().finish(summary)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the bar: as wide as the figures leave it, or none where they need all the room."""
        if self._info is None:
            return
        room = options.max_width - 1  # The last column makes some terminals wrap.
        place = f"{self._step}/{self._info.max_steps}"
        line = fit([Part(place, 0), *figures(self._latest, self.eta_seconds())], room)
        bar = min(MAX_BAR, room - len(line) - 1)
        if bar < MIN_BAR:
            yield Text(line, no_wrap=True)
            return
        full, empty = ("━", "─") if options.encoding.startswith("utf") else ("#", "-")
        done = min(bar, int(bar * self._step / max(1, self._info.max_steps)))
        yield Text.assemble(
            (full * done, "green"), (empty * (bar - done), "dim"), " ", line, no_wrap=True
        )
