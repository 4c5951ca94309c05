"""A series in one line of text: kept small while it is read, drawn in any width."""

from __future__ import annotations

from dataclasses import dataclass, field

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-~=+*#"
_MOST_POINTS = 512


@dataclass
class Series:
    """Values over steps: the extremes are exact, the course is thinned to some hundred points."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    low: float = 0.0
    high: float = 0.0
    points: list[tuple[float, float]] = field(default_factory=list)
    _every: int = 1

    def add(self, step: float, value: float) -> None:
        """Add the next value."""
        if not self.count:
            self.first = self.low = self.high = value
        elif value < self.low:
            self.low = value
        elif value > self.high:
            self.high = value
        self.last = value
        if self.count % self._every == 0:
            self.points.append((step, value))
            if len(self.points) == 2 * _MOST_POINTS:
                self.points = self.points[::2]
                self._every *= 2
        self.count += 1

    def columns(self, width: int, since: float, until: float) -> list[float | None]:
        """Return a value per column: the last within it, or else the one before; None: no yet."""
        found: list[float | None] = []
        index, now = 0, None
        span = max(until - since, 1.0)
        for column in range(width):
            end = since + span * (column + 1) / width
            while index < len(self.points) and self.points[index][0] <= end:
                now = self.points[index][1]
                index += 1
            found.append(now)
        if found and self.count:
            found[-1] = self.last
        return found


def spark(values: list[float | None], ascii_only: bool = False) -> str:
    """Return one character per value, from low to high; a blank where there is none yet."""
    ramp = PLAIN if ascii_only else BLOCKS
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    if high == low:
        # A level line says: no change.
        return "".join(" " if value is None else ramp[3] for value in values)
    scale = (len(ramp) - 1) / (high - low)
    return "".join(" " if v is None else ramp[round((v - low) * scale)] for v in values)
