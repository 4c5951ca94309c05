"""Pictures of paired differences: one dot a seed, means with intervals, and all cells at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chronorun.analysis.reading.fields import figure, shown
from chronorun.analysis.report.svg import Scale, percent, picture, tag, text
from chronorun.bench.evidence.comparisons import STATIC, Comparison, against
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules
from chronorun.bench.report.curves import shown_label
from chronorun.bench.report.figures import (
    cell_name,
    interval,
    number,
    percents,
)

NO_RESULT = "no result"
_ROW = 44.0
_DOTS_AT = 15.0
_SPAN_AT = 32.0
_LINE = 26.0
_GOLDEN = 0.6180339887498949


def dots_figure(verdict: CellVerdict) -> str:
    """Return each seed's difference from each baseline, in nats per token, as HTML."""
    compared = [c for c in verdict.comparisons if c.n]
    if not compared:
        return ""
    margin = next((c.margin for c in compared if math.isfinite(c.margin)), 0.0)
    x = _scale([value for c in compared for value in _values(c)] + [-margin, margin])
    height = _ROW * len(compared)
    parts = [_ground(x, margin, height)]
    parts += [_row(comparison, x, _ROW * i) for i, comparison in enumerate(compared)]
    told = "; ".join(f"{c.baseline} {interval(c, '%')}" for c in compared)
    label = shown_label(f"Difference of each seed from each baseline. Means: {told}")
    words = (
        f"Lifecycle minus baseline, nats per token. {_keys()} Left of 0 the lifecycle is better. "
        f"Shaded: within the margin of ±{number(margin, '.3g')}."
    )
    drawn = picture(parts, height, label, "plot rows")
    return f"<figure><figcaption>{words}</figcaption>{drawn}</figure>"


def overview_figure(verdicts: Sequence[CellVerdict], rules: VerdictRules) -> str:
    """Return the lifecycle against static in every cell, in percent, as HTML."""
    found = [(v, against(v.comparisons, STATIC)) for v in verdicts]
    compared = [c for _, c in found if c is not None]
    if not compared:
        return ""
    margin = 100.0 * rules.margin
    values = [value for c in compared for value in percents(c) if math.isfinite(value)]
    x = _scale([*values, -margin, margin])
    height = _LINE * len(found)
    parts = [_ground(x, margin, height)]
    for i, (verdict, comparison) in enumerate(found):
        y = _LINE * i + _LINE / 2
        parts.append(text(_short(cell_name(verdict)), -8, y + 4, "tick end"))
        if comparison is None:
            parts.append(text(NO_RESULT, 6, y + 4, "tick"))
        else:
            hint = f"{cell_name(verdict)}: {interval(comparison, '%')}, {verdict.verdict}"
            parts.append(_span(percents(comparison), x, y, hint))
    told = "; ".join(f"{cell_name(v)} {interval(c, '%') if c else NO_RESULT}" for v, c in found)
    label = shown_label(f"Lifecycle against static in each cell. {told}")
    words = (
        f"Lifecycle against static, % of its loss: mean and interval. Left of 0 the lifecycle is "
        f"better. Shaded: within the margin of ±{number(margin)}%."
    )
    drawn = picture(parts, height, label, "plot rows wide")
    return f"<figure><figcaption>{words}</figcaption>{drawn}</figure>"


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"


def _values(comparison: Comparison) -> list[float]:
    values = [*comparison.differences.values(), comparison.low, comparison.high]
    return [value for value in values if math.isfinite(value)]


def _scale(values: Sequence[float]) -> Scale:
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.05 * (high - low) or 1.0
    return Scale(low - margin, high + margin)


def _ground(x: Scale, margin: float, height: float) -> str:
    """Return what lies under the dots: the margin, the axis, the line at 0."""
    left, right = x.at(-margin), x.at(margin)
    parts = [
        tag(
            "rect",
            x=percent(left),
            width=percent(right - left),
            y=0,
            height=height,
            class_="margin",
        )
    ]
    for value in x.ticks(5):
        place = percent(x.at(value))
        parts.append(tag("line", x1=place, x2=place, y1=0, y2=height + 4, class_="grid"))
        parts.append(text(figure(value), place, height + 17, "tick mid"))
    parts.append(tag("line", x1="0", x2="100%", y1=height, y2=height, class_="axis"))
    zero = percent(x.at(0.0))
    parts.append(tag("line", x1=zero, x2=zero, y1=0, y2=height, class_="zero"))
    return "".join(parts)


def _row(comparison: Comparison, x: Scale, top: float) -> str:
    parts = [text(comparison.baseline, -8, top + _DOTS_AT + 8, "tick end")]
    for i, (seed, difference) in enumerate(comparison.differences.items()):
        if math.isfinite(difference):
            # Spread evenly over a strip, so that equal dots do not hide each other.
            y = top + _DOTS_AT + 14 * ((i * _GOLDEN) % 1 - 0.5)
            hint = tag("title", shown(f"seed {seed}: {number(difference, '+.5f')}"))
            parts.append(
                tag("circle", hint, cx=percent(x.at(difference)), cy=y, r=3.5, class_="dot")
            )
    c = comparison
    hint = f"{c.baseline}: mean {number(c.mean, '+.5f')}, {interval(c, '%')}, {c.n} seeds"
    return "".join([*parts, _span((c.mean, c.low, c.high), x, top + _SPAN_AT, hint)])


def _span(figures: tuple[float, float, float], x: Scale, y: float, hint: str) -> str:
    mean, low, high = figures
    parts = [tag("title", shown(hint))]
    if math.isfinite(low) and math.isfinite(high):
        ends = {"x1": percent(x.at(low)), "x2": percent(x.at(high))}
        parts.append(tag("line", y1=y, y2=y, class_="span", **ends))
    if math.isfinite(mean):
        parts.append(tag("circle", cx=percent(x.at(mean)), cy=y, r=4.5, class_="mean"))
    return tag("g", "".join(parts))


def _keys() -> str:
    dot = tag("circle", cx=6, cy=6, r=3.5, class_="dot")
    span = tag("line", x1=0, x2=24, y1=6, y2=6, class_="span")
    mean = tag("circle", cx=12, cy=6, r=4.5, class_="mean")
    samples = ((dot, 12, "one seed"), (span + mean, 24, "mean and interval"))
    return "".join(
        f'<span class="key"><svg width="{width}" height="12" aria-hidden="true">{drawn}</svg>'
        f"{name}</span>"
        for drawn, width, name in samples
    )
