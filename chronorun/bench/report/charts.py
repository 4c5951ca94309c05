"""The pictures of a bench: arms over steps, one dot a seed, and all cells at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from chronorun.analysis.report.charts import (
    Chart,
    Dot,
    Letter,
    Line,
    LineChart,
    Row,
    RowChart,
    Scale,
    Segment,
)
from chronorun.analysis.report.style import Look
from chronorun.analysis.report.svg import cut
from chronorun.bench.evidence.comparisons import LIFECYCLE, STATIC, against
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules
from chronorun.bench.report.curves import Course, Curves, cell_courses, difference_courses
from chronorun.bench.report.figures import cell_name, interval, number, percents

NO_RESULT = "no result"
_ARMS = {
    "lifecycle": Look("blue", width=2.8),
    "static": Look("ink", "7 3"),
    "static_mean": Look("orange", "2 3"),
    "loss_free": Look("green", "9 3 2 3"),
    "yoked": Look("purple", "5 3"),
    "static_max": Look("orange", "12 4"),
    "lens": Look("teal", "6 2"),
    "scheduled": Look("red", "3 2"),
    "sham": Look("purple", "1 3"),
    "dry_run": Look("soft", "4 4"),
}
"""The look of each arm, the same in every picture. No two arms of a like colour have like
dashes."""
OTHER = Look("soft", "1 2")
_SPAN = Look("ink", width=2)
_SPAN_AT, _DOTS_AT, _SPREAD = 0.73, 0.34, 0.32
"""Where in its row an interval lies, and the strip of the dots: parts of its height."""
_GOLDEN = 0.6180339887498949


class Picture(NamedTuple):
    """A chart and its caption."""

    chart: Chart
    caption: str


class Key(NamedTuple):
    """An arm's look, its name, and how many seeds its line is the mean of."""

    look: Look
    arm: str
    seeds: str


class Courses(NamedTuple):
    """The pictures of a cell over steps, and one key for all of them."""

    keys: list[Key]
    pictures: list[Picture]


def arm_look(arm: str) -> Look:
    """Return how an arm is drawn."""
    return _ARMS.get(arm, OTHER)


def cell_pictures(curves: Curves, scenario: str, variant: str, confidence: float) -> Courses:
    """Return a cell's losses over steps, losses against static, and experts; nothing where none."""
    losses = cell_courses(curves, scenario, variant, confidence, "val_loss")
    differences = difference_courses(curves, scenario, variant, confidence)
    experts = cell_courses(curves, scenario, variant, confidence, "population")
    drawn = (
        _losses(losses, confidence) if losses else None,
        _differences(differences, confidence) if differences else None,
        _experts(experts) if experts else None,
    )
    keys = [_key(course) for course in reversed(losses or experts)]
    return Courses(keys, [picture for picture in drawn if picture is not None])


def _key(course: Course) -> Key:
    return Key(
        arm_look(course.arm), course.arm, f"{course.seeds} seed{'s' if course.seeds != 1 else ''}"
    )


def _losses(courses: Sequence[Course], confidence: float) -> Picture:
    # The high losses of the first steps do not press the others flat.
    late = _late(courses, banded=courses)
    low, high = min(late), max(late)
    margin = 0.06 * (high - low) or 0.5
    y = Scale(low - margin, high + margin)
    is_cut = max(value for course in courses for _, value in course.high) > y.high
    words = (
        f"Validation loss over steps, nats per token: mean over seeds; band: "
        f"{number(100 * confidence)}% t interval of the mean."
        f"{f' Above {number(y.high)} cut off.' if is_cut else ''}"
    )
    return Picture(_chart(courses, y, "Validation loss over steps", banded=courses), words)


def _differences(courses: Sequence[Course], confidence: float) -> Picture:
    ours = [course for course in courses if course.arm == LIFECYCLE]
    late = [0.0, *_late(courses, banded=ours)]
    low, high = min(late), max(late)
    margin = 0.06 * (high - low) or 0.01
    words = (
        f"Loss minus that of static over steps, paired by seed: mean; band (lifecycle alone): "
        f"{number(100 * confidence)}% t interval. Below 0 is better than static."
    )
    y = Scale(low - margin, high + margin)
    label = "Validation loss minus static's over steps"
    return Picture(_chart(courses, y, label, banded=ours), words)


def _experts(courses: Sequence[Course]) -> Picture:
    most = max(value for course in courses for _, value in course.mean)
    chart = _chart(courses, Scale(0.0, most * 1.08 or 1.0), "Experts per layer over steps", True)
    return Picture(chart, "Experts per layer over steps: mean over layers and seeds.")


def _late(courses: Sequence[Course], banded: Sequence[Course]) -> list[float]:
    """Return the values that are drawn after the first 15% of the steps."""
    last = max(course.mean[-1][0] for course in courses)
    lines = [course.mean for course in courses]
    lines += [line for course in banded for line in (course.low, course.high)]
    return [value for line in lines for step, value in line if step >= 0.15 * last]


def _chart(
    courses: Sequence[Course],
    y: Scale,
    title: str,
    steps: bool = False,
    banded: Sequence[Course] = (),
) -> LineChart:
    ends = ", ".join(f"{c.arm} {number(c.mean[-1][1], '.4f')}" for c in reversed(courses))
    x = Scale(0.0, max(course.mean[-1][0] for course in courses))
    lines = [
        Line(c.arm, c.mean, arm_look(c.arm), steps, band=(c.low, c.high) if c in banded else None)
        for c in courses
    ]
    return LineChart(f"{title}. At the end: {ends}", "", x, y, 240, lines, cut=True)


def dots(verdict: CellVerdict) -> Picture | None:
    """Return each seed's difference from each baseline, in nats per token."""
    compared = [c for c in verdict.comparisons if c.n]
    if not compared:
        return None
    margin = next((c.margin for c in compared if math.isfinite(c.margin)), 0.0)
    found, segments = [], []
    for row, c in enumerate(compared):
        for i, (seed, difference) in enumerate(c.differences.items()):
            if math.isfinite(difference):
                # Spread evenly over a strip, so that equal dots do not hide each other.
                at = row + _DOTS_AT + _SPREAD * ((i * _GOLDEN) % 1 - 0.5)
                words = f"seed {seed}: {number(difference, '+.5f')}"
                found.append(Dot(difference, at, False, words))
        hint = f"{c.baseline}: mean {number(c.mean, '+.5f')}, {interval(c, '%')}, {c.n} seeds"
        segments += _span((c.mean, c.low, c.high), row + _SPAN_AT, hint)
        found += _mean(c.mean, row + _SPAN_AT, hint)
    values = [dot.x for dot in found] + [end for s in segments for end, _ in (s.start, s.end)]
    means = "; ".join(f"{c.baseline} {interval(c, '%')}" for c in compared)
    chart = RowChart(
        f"Difference of each seed from each baseline. Means: {means}",
        "",
        _scale([*values, -margin, margin]),
        [Row(c.baseline) for c in compared],
        44.0,
        segments=segments,
        dots=found,
        margin=margin,
    )
    words = (
        f"Left of 0 the lifecycle is better. Shaded: within the margin of ±{number(margin, '.3g')}."
    )
    return Picture(chart, words)


def overview(verdicts: Sequence[CellVerdict], rules: VerdictRules) -> Picture | None:
    """Return the lifecycle against static in every cell, in percent."""
    compared = [(cell_name(v), v, against(v.comparisons, STATIC)) for v in verdicts]
    if all(comparison is None for _, _, comparison in compared):
        return None
    margin = 100.0 * rules.margin
    known = [percents(c) for _, _, c in compared if c is not None]
    x = _scale([*(v for three in known for v in three if math.isfinite(v)), -margin, margin])
    found: list[Dot] = []
    segments: list[Segment] = []
    letters = []
    for row, (name, verdict, comparison) in enumerate(compared):
        if comparison is None:
            letters.append(Letter(NO_RESULT, x.low, row + 0.5, False, "soft"))
            continue
        hint = f"{name}: {interval(comparison, '%')}, {verdict.verdict}"
        segments += _span(percents(comparison), row + 0.5, hint)
        found += _mean(percents(comparison)[0], row + 0.5, hint)
    means = "; ".join(f"{name} {interval(c, '%') if c else NO_RESULT}" for name, _, c in compared)
    chart = RowChart(
        f"Lifecycle against static in each cell. {means}",
        "",
        x,
        [Row(cut(name, 22)) for name, _, _ in compared],
        26.0,
        segments=segments,
        dots=found,
        letters=letters,
        margin=margin,
    )
    words = (
        f"Lifecycle against static, % of its loss: mean and interval. Left of 0 the lifecycle is "
        f"better. Shaded: within the margin of ±{number(margin)}%."
    )
    return Picture(chart, words)


def _scale(values: Sequence[float]) -> Scale:
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.05 * (high - low) or 1.0
    return Scale(low - margin, high + margin)


def _span(figures: tuple[float, float, float], row: float, words: str) -> list[Segment]:
    _, low, high = figures
    is_known = math.isfinite(low) and math.isfinite(high)
    return [Segment((low, row), (high, row), _SPAN, words)] if is_known else []


def _mean(value: float, row: float, words: str) -> list[Dot]:
    return [Dot(value, row, True, words)] if math.isfinite(value) else []
