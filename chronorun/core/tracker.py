"""How training tells the world about a run; who listens is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunInfo:
    """What a tracker may know at the start; ``config`` is plain data without resolved secrets."""

    run_id: str
    run_dir: Path
    max_steps: int
    start_step: int
    tokens_per_step: int
    config: dict[str, Any]
    population: dict[str, int]
    resume_id: str | None


class Tracker(Protocol):
    """Listener of one run."""

    def start(self, info: RunInfo) -> None:
        """The run begins or resumes."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of a step, under ``/``-separated names."""

    def alert(self, step: int, message: str) -> None:
        """Something a person should see."""

    def notice(self, message: str) -> None:
        """A line for people: resumed, scenario started, ..."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table, such as the decisions of a run."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is over, however it ended; always called."""
