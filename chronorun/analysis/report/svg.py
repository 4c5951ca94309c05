"""Draws SVG that fits any width: shapes stretch, text and strokes keep their size.

A picture has no viewBox, so that its units are pixels: heights are pixels, places along x are
percent. Paths, which cannot take percent, lie in a nested SVG that is stretched sideways. Margins
lie outside of the picture (``overflow: visible``); colours are CSS classes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chronorun.analysis.reading.fields import figure, shown
from chronorun.analysis.reading.series import Point

WIDTH = 1000
"""Units across of the nested SVG."""


@dataclass(frozen=True)
class Scale:
    """Maps values between ``low`` and ``high`` to 0 .. 1."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where a value lies, never beyond the ends."""
        if self.high <= self.low:
            return 0.5
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

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


def tag(name: str, content: str = "", **attributes: str | float) -> str:
    """Return an element; ``class_`` is written class, ``text_anchor`` text-anchor."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_plain(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{content}</{name}>"


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """Return a place along x."""
    return f"{_plain(100 * share)}%"


def text(content: str, x: str | float, y: float, class_: str) -> str:
    """Return a text; the content comes from logs and is escaped here."""
    return tag("text", shown(content, 80), x=x, y=y, class_=class_)


def picture(content: Iterable[str], height: float, label: str, class_: str = "plot") -> str:
    """Return a whole picture; ``label`` says what it shows to those who cannot see it."""
    return tag(
        "svg",
        "".join(content),
        class_=class_,
        role="img",
        aria_label=label,
        width="100%",
        height=height,
    )


def stretched(content: str, height: float, *, y: float = 0.0, clip: bool = False) -> str:
    """Return a nested SVG of ``WIDTH`` units across for paths."""
    return tag(
        "svg",
        content,
        y=y,
        width="100%",
        height=height,
        viewBox=f"0 0 {WIDTH} {_plain(height)}",
        preserveAspectRatio="none",
        overflow="hidden" if clip else "visible",
    )


def path(commands: str, class_: str, title: str = "") -> str:
    """Return a path, with what a pointer over it is told."""
    content = tag("title", shown(title)) if title else ""
    return tag("path", content, d=commands, class_=class_)


def polyline(points: Sequence[Point], x: Scale, y: Scale, height: float, *, steps: bool) -> str:
    """Return the commands of a line through points, straight or in steps."""
    commands = []
    for i, (at, value) in enumerate(points):
        px, py = _plain(WIDTH * x.at(at)), _plain(height * (1 - y.free(value)))
        if i == 0:
            commands.append(f"M{px} {py}")
        elif steps:
            commands.append(f"H{px}V{py}")
        else:
            commands.append(f"L{px} {py}")
    if len(points) == 1:
        commands.append("h0.01")
    return "".join(commands)


def frame(x: Scale, y: Scale | None, height: float, *, top: float = 0.0) -> str:
    """Return grid, ticks and their numbers around a plot that begins at ``top``."""
    parts = []
    for value in () if y is None else y.ticks(4):
        py = top + height * (1 - y.at(value)) if y is not None else 0.0
        parts.append(tag("line", x1="0", x2="100%", y1=py, y2=py, class_="grid"))
        parts.append(text(figure(value), -8, py + 4, "tick end"))
    ticks = x.ticks(5)
    for value in ticks:
        place = percent(x.at(value))
        parts.append(
            tag("line", x1=place, x2=place, y1=top + height, y2=top + height + 4, class_="axis")
        )
        parts.append(text(short_step(value), place, top + height + 17, "tick mid"))
    parts.append(tag("line", x1="0", x2="100%", y1=top + height, y2=top + height, class_="axis"))
    return "".join(parts)


def short_step(value: float) -> str:
    """Return a step for an axis: 1200 as it is, 15k, 2.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:.6g}"
