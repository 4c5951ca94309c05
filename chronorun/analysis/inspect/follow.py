"""Follow a run that is still training: its actions and evaluations as they are written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chronorun.analysis.reading.records import Decision, Losses
from chronorun.analysis.reading.run import LONGEST_LINE, Run, T, typed_lines
from chronorun.core.run_files import SUMMARY, log_file
from chronorun.errors import StorageError, UserError

POLL_SECONDS = 0.5


@dataclass
class Tail:
    """The complete lines of a log that were not read yet."""

    path: Path
    offset: int = 0
    number: int = 0

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line number, line); an incomplete last line is left for the next call."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self.offset:
                # A resume cut the log back: what follows is written anew.
                self.offset = self.number = 0
            file.seek(self.offset)
            while (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
                self.offset += len(line)
                self.number += 1
                if line.strip():
                    yield self.number, line


@dataclass
class Following:
    """A run in progress: ``news`` yields what was written since the last call."""

    run: Run
    decisions: Tail = field(init=False)
    metrics: Tail = field(init=False)

    def __post_init__(self) -> None:
        self.decisions = Tail(self.run.path("lifecycle_decisions"))
        self.metrics = Tail(self.run.path("metrics"))

    def news(self) -> Iterator[Decision | Losses]:
        """Yield new evaluations and actions, by step."""
        found: list[Decision | Losses] = []
        found += (r for r in self._decoded(self.metrics, Losses) if r.val_loss is not None)
        found += self._decoded(self.decisions, Decision)
        yield from sorted(found, key=lambda record: record.step or 0)

    def _decoded(self, tail: Tail, kind: type[T]) -> Iterator[T]:
        return typed_lines(tail.path, tail.lines(), kind, self.run.notices)

    def done(self) -> bool:
        """Return whether the run's summary says that it has completed."""
        try:
            return self.run.json(SUMMARY).get("status") == "completed"
        except StorageError:
            # Caught while it is being replaced.
            return False


def follow(run: Run, wait: float = POLL_SECONDS) -> Iterator[Decision | Losses]:
    """Yield actions and evaluations, past ones first, until the run has completed."""
    following = Following(run)
    while True:
        # Asked before the logs are read: what was written before the end is not missed.
        done = following.done()
        yield from following.news()
        if done:
            return
        time.sleep(wait)


def followable(path: Path) -> Run:
    """Return the run to follow. Raises UserError for what is no run's folder or decisions file."""
    folder = path.parent if path.name == log_file("lifecycle_decisions") else path
    if not folder.is_dir():
        raise UserError(
            f"inspect: --follow {path}, expected a run's folder or its lifecycle_decisions.jsonl; "
            f"name one such as outputs/run"
        )
    return Run(folder)
