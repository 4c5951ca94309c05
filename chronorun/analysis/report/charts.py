"""What a chart is: scales, lines, rows and marks, which ``svg`` and ``plots`` draw."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chronorun.analysis.reading.series import Point, Series
from chronorun.analysis.report.style import Look


@dataclass(frozen=True)
class Scale:
    """Maps values between ``low`` and ``high`` to 0 .. 1."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where a value lies, never beyond the ends."""
        return min(1.0, max(0.0, self.free(value)))

    def free(self, value: float) -> float:
        """Return where a value lies, at most one length beyond the ends."""
        if self.high <= self.low:
            return 0.5
        return min(2.0, max(-1.0, (value - self.low) / (self.high - self.low)))

    def ticks(self, most: int) -> list[float]:
        """Return round values on the scale, at most ``most`` + 1."""
        span = self.high - self.low
        if span <= 0 or not math.isfinite(span):
            return [self.low]
        step = _round_step(span / most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)][: most + 1]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * n for n in (1, 2, 2.5, 5, 10, 20) if power * n >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    ``behind`` is drawn pale, ``band`` shaded, from its first line to its second; a key shows
    ``note`` after the name.
    """

    name: str
    points: Sequence[Point]
    look: Look
    steps: bool = False
    behind: Sequence[Point] = ()
    band: tuple[Sequence[Point], Sequence[Point]] | None = None
    note: str = ""

    @classmethod
    def of(cls, name: str, thinned: Series, look: Look) -> Line:
        """Return the line of a series: of its means, and its extremes behind, where it is long."""
        points, means = thinned.points(), thinned.means()
        return cls(name, means, look, behind=points) if means else cls(name, points, look)

    @property
    def values(self) -> list[float]:
        """Return all values that are drawn."""
        return [value for _, value in (*self.points, *self.behind)]


class Mark(NamedTuple):
    """Something that happened: a letter in a lane, and the words shown when pointed at."""

    lane: str
    letter: str
    step: float
    words: str


@dataclass(frozen=True)
class LineChart:
    """Lines over steps; marks stand in lanes above them, one lane a kind.

    ``label`` is the text alternative, ``unit`` names the y axis in a file. Lines are cut off at
    the ends of the scale where ``cut``.
    """

    label: str
    unit: str
    x: Scale
    y: Scale
    height: float
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    cut: bool = False
    caption: str = ""

    def lanes(self) -> dict[str, list[Mark]]:
        """Return the marks by lane."""
        found: dict[str, list[Mark]] = defaultdict(list)
        for mark in self.marks:
            found[mark.lane].append(mark)
        return found

    def letters(self) -> str:
        """Return what the letters of the marks mean."""
        return ", ".join(f"{lane[0].letter} {name}" for name, lane in self.lanes().items())


class Row(NamedTuple):
    """The name of a row, and the words shown when it is pointed at."""

    name: str
    words: str = ""


class Cell(NamedTuple):
    """A stretch of a row in a depth of colour from 0 to 10."""

    row: int
    since: float
    until: float
    level: int


class Segment(NamedTuple):
    """A straight line between two places; rows are counted from the upper edge of the first."""

    start: tuple[float, float]
    end: tuple[float, float]
    look: Look
    words: str = ""


class Dot(NamedTuple):
    """A dot: hollow for one of many, full for their mean."""

    x: float
    row: float
    is_full: bool
    words: str = ""


class Letter(NamedTuple):
    """A short text before or after a place."""

    text: str
    x: float
    row: float
    is_before: bool
    colour: str


@dataclass(frozen=True)
class RowChart:
    """Rows with names, and what lies in them over steps or over another value.

    Over values, round ones have a line, and everything within ``margin`` of 0 is shaded.
    """

    label: str
    unit: str
    x: Scale
    rows: Sequence[Row]
    row_height: float
    cells: Sequence[Cell] = ()
    segments: Sequence[Segment] = ()
    dots: Sequence[Dot] = ()
    letters: Sequence[Letter] = ()
    margin: float | None = None
    caption: str = ""

    @property
    def height(self) -> float:
        """Return the height in pixels."""
        return self.row_height * len(self.rows)


Chart = LineChart | RowChart


def gathered(marks: Sequence[Mark], x: Scale, apart: float) -> Iterator[tuple[float, str, str]]:
    """Yield place, letter and words of marks, those nearer than ``apart`` as one with a count."""
    found: list[tuple[float, list[Mark]]] = []
    for mark in sorted(marks, key=lambda mark: mark.step):
        place = x.at(mark.step)
        if found and place - found[-1][0] < apart:
            mean, together = found[-1]
            together.append(mark)
            found[-1] = (mean + (place - mean) / len(together), together)
        else:
            found.append((place, [mark]))
    for place, (first, *others) in found:
        if others:
            words = f"{first.words}, and {len(others)} more"
            yield place, f"{first.letter}{len(others) + 1}", words
        else:
            yield place, first.letter, first.words


def short_step(value: float) -> str:
    """Return a step for an axis: 1200 as it is, 15k, 2.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:.6g}"
