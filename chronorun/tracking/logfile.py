"""``train.log``: the lines of the screen, each with its time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from chronorun.core.text import one_line
from chronorun.core.tracker import RunInfo
from chronorun.tracking.lines import progress_line


class LogFileTracker:
    """Appends plain lines to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._info: RunInfo | None = None

    def _line(self, text: str) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {one_line(text)}\n")

    def start(self, info: RunInfo) -> None:
        """Note the start."""
        self._info = info
        self._line(f"run {info.run_id} starts after step {info.start_step}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the figures of an evaluation."""
        if self._info is not None and "val/loss" in metrics:
            self._line(progress_line(step, self._info.max_steps, metrics, width=120))

    def alert(self, step: int, message: str) -> None:
        """Note an alert."""
        self._line(f"step {step}: {message}")

    def notice(self, message: str) -> None:
        """Note a line."""
        self._line(message)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Tables have files of their own."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Note the end and close."""
        try:
            self._line(f"run {summary.get('run_id')} {summary.get('status')}")
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None
