"""What a scenario's event cost: loss above where it was before, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from chronorun.analysis.reading.records import ScenarioEvent
from chronorun.analysis.reading.run import read_typed
from chronorun.bench.evidence.course import Course
from chronorun.config.scenario import ScenarioKind

START, PLANTED, END = "start", "planted", "end"
LASTING = ScenarioKind.domain_shift.value
"""The scenario whose change the run is meant to live with; all others that start are to end."""


@dataclass(frozen=True)
class Event:
    """The first event of a run: the step it begins at, and the one it is over at.

    What is planted is over at once, and so is a shift of domains that is not taken back: there is
    nothing to wait for. ``over`` is None for a stress that is still on when the run ends.
    """

    start: int
    over: int | None


def read_event(path: Path) -> Event | None:
    """Return a run's first event; None where there was none."""
    event = None
    for record in read_typed(path, ScenarioEvent) if path.is_file() else ():
        if record.step is None:
            continue
        if event is None and record.event in (START, PLANTED):
            lasts = record.event == PLANTED or record.scenario == LASTING
            event = Event(record.step, record.step if lasts else None)
        elif event is not None and record.event == END:
            return Event(event.start, record.step)
    return event


def excess_and_recovery(path: Path, course: Course) -> dict[str, float | None]:
    """Return what a run's event cost.

    ``excess_loss``: area of the validation loss above its value at the last checkpoint before the
    event, from the event to the run's end, in nats x steps (straight lines between checkpoints;
    what lies below counts 0). ``recovery_steps``: from where the event is over to the first
    checkpoint at or below that value; None where that is not within the run, as under a stress that
    is still on at its end, and ``recovered`` is then 0. All None without an event, or one before
    the first checkpoint.
    """
    event = read_event(path)
    before = [] if event is None else [i for i, s in enumerate(course.steps) if s <= event.start]
    if event is None or not before:
        return dict.fromkeys(("excess_loss", "recovery_steps", "recovered"))
    level, after = course.losses[before[-1]], before[-1] + 1
    points = list(zip(course.steps, course.losses, strict=True))[after:]
    over = math.inf if event.over is None else event.over
    back = next((step for step, loss in points if step > over and loss <= level), None)
    return {
        "excess_loss": _area_above(level, [(event.start, level), *points]),
        "recovery_steps": None if back is None else float(back - over),
        "recovered": float(back is not None),
    }


def _area_above(level: float, points: list[tuple[int, float]]) -> float:
    """Return the area between a level and the parts above it of the lines through some points."""
    area = 0.0
    for (a, x), (b, y) in pairwise(points):
        low, high = sorted((x - level, y - level))
        if low >= 0.0:
            area += (b - a) * (low + high) / 2
        elif high > 0.0:
            # The line crosses the level: a triangle over the part of its way that lies above.
            area += (b - a) * high**2 / (high - low) / 2
    return area
