"""Keeps as much of a long series as a picture can show, in one pass and in flat memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Point = tuple[float, float]
_COARSE = 4
"""From so many points a stretch on, extremes are a band, and means tell the course."""


@dataclass
class _Stretch:
    low: Point
    high: Point
    x_sum: float
    y_sum: float
    points: int = 1

    def join(self, other: _Stretch) -> _Stretch:
        return _Stretch(
            min(self.low, other.low, key=lambda point: point[1]),
            max(self.high, other.high, key=lambda point: point[1]),
            self.x_sum + other.x_sum,
            self.y_sum + other.y_sum,
            self.points + other.points,
        )


class ThinnedLine:
    """Keeps the lowest and the highest point of each stretch of a series.

    Up to ``most`` points are kept as they are; a spike is never lost.
    """

    def __init__(self, most: int = 500) -> None:
        self.most = most
        self._stretches: list[_Stretch] = []
        self._per_stretch = 1
        self._last: Point | None = None

    def add(self, x: float, y: float) -> None:
        """Add the next point."""
        self._last = (x, y)
        fresh = _Stretch(self._last, self._last, x, y)
        if self._stretches and self._stretches[-1].points < self._per_stretch:
            self._stretches[-1] = self._stretches[-1].join(fresh)
            return
        if len(self._stretches) == self.most:
            pairs = zip(self._stretches[::2], self._stretches[1::2], strict=True)
            self._stretches = [one.join(other) for one, other in pairs]
            self._per_stretch *= 2
        self._stretches.append(fresh)

    def extend(self, points: Iterable[Point]) -> None:
        """Add several points."""
        for x, y in points:
            self.add(x, y)

    def points(self) -> list[Point]:
        """Return what was kept, in order; the last point is always among it."""
        found: list[Point] = []
        for stretch in self._stretches:
            found += sorted({stretch.low, stretch.high})
        if self._last is not None and found[-1] != self._last:
            found.append(self._last)
        return found

    def means(self) -> list[Point]:
        """Return the mean of each stretch; nothing while a stretch holds but a few points."""
        if self._per_stretch < _COARSE:
            return []
        return [(s.x_sum / s.points, s.y_sum / s.points) for s in self._stretches]


@dataclass
class Column:
    """Several checkpoints of one layer: the mean share of each expert over ``(since, until]``."""

    since: float
    until: float
    checkpoints: int
    sums: dict[str, float] = field(default_factory=dict)

    def join(self, other: Column) -> Column:
        """Return both as one."""
        sums = dict(self.sums)
        for expert_id, share in other.sums.items():
            sums[expert_id] = sums.get(expert_id, 0.0) + share
        return Column(self.since, other.until, self.checkpoints + other.checkpoints, sums)

    def shares(self) -> dict[str, float]:
        """Return the mean shares of the experts that lived in it."""
        return {expert_id: total / self.checkpoints for expert_id, total in self.sums.items()}


class ThinnedColumns:
    """Keeps the shares of a layer's experts in at most ``most`` columns."""

    def __init__(self, most: int = 120) -> None:
        self.most = most
        self.columns: list[Column] = []
        self._per_column = 1
        self._until = 0.0

    def add(self, step: float, shares: dict[str, float]) -> None:
        """Add the next checkpoint."""
        since = min(self._until, step)
        self._until = step
        fresh = Column(since, step, 1, shares)
        if self.columns and self.columns[-1].checkpoints < self._per_column:
            self.columns[-1] = self.columns[-1].join(fresh)
            return
        if len(self.columns) == self.most:
            pairs = zip(self.columns[::2], self.columns[1::2], strict=True)
            self.columns = [one.join(other) for one, other in pairs]
            self._per_column *= 2
        self.columns.append(fresh)
