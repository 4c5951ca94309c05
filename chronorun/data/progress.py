"""Progress of preparing a large corpus, shown on a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 30.0


class TerminalProgress:
    """A bar on standard error; where that is no terminal, a line every half minute."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()

    def say(self, message: str) -> None:
        """Print a line."""
        if self._bar is not None:
            self._bar.console.print(f"data: {message}", highlight=False)
        elif sys.stderr is not None:
            print(f"data: {message}", file=sys.stderr, flush=True)

    def advance(self, done_bytes: int, expected_bytes: int) -> None:
        """Move the bar, or print a line when the last one is old."""
        if sys.stderr is not None and sys.stderr.isatty():
            bar, task = self._opened(expected_bytes)
            bar.update(task, completed=done_bytes)
        elif time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(f"{done_bytes:,} of at most {expected_bytes:,} bytes are tokenised")

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _opened(self, expected_bytes: int) -> tuple[Progress, TaskID]:
        if self._bar is None or self._task is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

            self._bar = Progress(
                "tokenising",
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=expected_bytes)
            self._bar.start()
        return self._bar, self._task
