"""Long series kept small: one pass, flat memory, and no spike lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]
_COARSE = 4
"""With this many points per stretch, draw extremes as a band and the means as the line."""


@dataclass(slots=True)
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


class Series:
    """Values over steps: the lowest and the highest point of each stretch are kept.

    Up to ``most`` points are kept as they are. ``first``, ``last``, ``low`` and ``high`` are exact.
    """

    def __init__(self, most: int = 512) -> None:
        self.most = most
        self.count = 0
        self.first = self.last = self.low = self.high = 0.0
        self._last_x = 0.0
        self._stretches: list[_Stretch] = []
        self._per_stretch = 1

    def add(self, x: float, y: float) -> None:
        """Add the next value."""
        if not self.count:
            self.first = self.low = self.high = y
        elif y < self.low:
            self.low = y
        elif y > self.high:
            self.high = y
        self.last, self._last_x = y, x
        self.count += 1
        stretches = self._stretches
        if stretches and stretches[-1].points < self._per_stretch:
            last = stretches[-1]
            if y < last.low[1]:
                last.low = (x, y)
            elif y > last.high[1]:
                last.high = (x, y)
            last.x_sum += x
            last.y_sum += y
            last.points += 1
            return
        if len(stretches) == self.most:
            pairs = zip(stretches[::2], stretches[1::2], strict=True)
            self._stretches = stretches = [one.join(other) for one, other in pairs]
            self._per_stretch *= 2
        stretches.append(_Stretch((x, y), (x, y), x, y))

    def points(self) -> list[Point]:
        """Return the points kept, in order; the last point of the series is among them."""
        found: list[Point] = []
        for stretch in self._stretches:
            found += sorted({stretch.low, stretch.high})
        last = (self._last_x, self.last)
        if self.count and found[-1] != last:
            found.append(last)
        return found

    def means(self) -> list[Point]:
        """Return the mean of each stretch; empty while stretches hold only a few points."""
        if self._per_stretch < _COARSE:
            return []
        return [(s.x_sum / s.points, s.y_sum / s.points) for s in self._stretches]

    def columns(self, width: int, since: float, until: float) -> list[float | None]:
        """Return the series in columns, its last value in the last of them."""
        found = columns(self.points(), width, since, until)
        if found and self.count:
            found[-1] = self.last
        return found


def columns(points: Sequence[Point], width: int, since: float, until: float) -> list[float | None]:
    """Return a value per column: the last within it, or else the one before; None before all."""
    found: list[float | None] = []
    index, now = 0, None
    span = max(until - since, 1.0)
    for column in range(width):
        end = since + span * (column + 1) / width
        while index < len(points) and points[index][0] <= end:
            now = points[index][1]
            index += 1
        found.append(now)
    return found


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
