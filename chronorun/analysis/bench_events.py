"""What a scenario's event cost: loss above where it was before, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from chronorun.analysis.bench_course import Course
from chronorun.analysis.reading import read_records

START, END = ("start", "planted"), "end"


@dataclass(frozen=True)
class Event:
    """The first stress of a run: the step it begins at, and ends at if it ends."""

    start: int
    end: int | None


def read_event(path: Path) -> Event | None:
    """Return a run's first event; a planted one has no end. None where there was none."""
    start = end = None
    if path.is_file():
        for _, record in read_records(path):
            if start is None and record["event"] in START:
                start = int(record["step"])
            elif start is not None and end is None and record["event"] == END:
                end = int(record["step"])
    return None if start is None else Event(start, end)


def excess_and_recovery(path: Path, course: Course) -> dict[str, float | None]:
    """Return what a run's event cost.

    ``excess_loss``: area of the validation loss above its value at the last checkpoint before the
    event, from the event to the run's end, in nats x steps (straight lines between checkpoints;
    what lies below counts 0). ``recovery_steps``: from the event's end (its start, where it has
    none) to the first checkpoint at or below that value; None where that is not within the run, and
    ``recovered`` is then 0. All None without an event, or one before the first checkpoint.
    """
    event = read_event(path)
    before = [] if event is None else [i for i, s in enumerate(course.steps) if s <= event.start]
    if event is None or not before:
        return dict.fromkeys(("excess_loss", "recovery_steps", "recovered"))
    level, after = course.losses[before[-1]], before[-1] + 1
    points = list(zip(course.steps, course.losses, strict=True))[after:]
    over = event.start if event.end is None else event.end
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
