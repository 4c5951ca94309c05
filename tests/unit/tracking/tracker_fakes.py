"""Fakes and makers shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from chronorun.core.screen import Screen
from chronorun.core.tracker import RunInfo


def run_info(run_dir: Path, **changes: Any) -> RunInfo:
    fields: dict[str, Any] = {
        "run_id": "fake",
        "run_dir": run_dir,
        "max_steps": 100,
        "start_step": 0,
        "tokens_per_step": 64,
        "config": {"seed": 0},
        "population": {"0": 8, "1": 8},
        "resume_id": None,
    }
    return RunInfo(**(fields | changes))


def screen(*, terminal: bool = False, width: int = 80) -> tuple[Screen, StringIO]:
    text = StringIO()
    console = Screen(
        file=text,
        force_terminal=terminal,
        width=width,
        height=24,
        color_system=None,
        highlight=False,
        _environ={"TERM": "xterm"},
    )
    return console, text


class Recorder:
    """A tracker that keeps what it is told, or raises in the calls it is told to."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.calls: list[tuple[Any, ...]] = []

    def _take(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.broken:
            raise OSError(f"no room for {name}")

    def start(self, info: RunInfo) -> None:
        self._take("start", info)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._take("log", step, dict(metrics))

    def alert(self, step: int, message: str) -> None:
        self._take("alert", step, message)

    def notice(self, message: str) -> None:
        self._take("notice", message)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._take("table", name, columns, rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._take("finish", dict(summary))
