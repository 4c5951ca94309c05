"""The pictures of a bench: arms over steps, one dot a seed, and all cells at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chronorun.analysis.report.charts import (
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


def arm_look(arm: str) -> Look:
    """Return how an arm is drawn."""
    return _ARMS.get(arm, OTHER)


def cell_charts(curves: Curves, scenario: str, variant: str, confidence: float) -> list[LineChart]:
    """Return a cell's losses over steps, losses against static, and experts; those that exist."""
    losses = cell_courses(curves, scenario, variant, confidence, "val_loss")
    differences = difference_courses(curves, scenario, variant, confidence)
    experts = cell_courses(curves, scenario, variant, confidence, "population")
    return [
        *([_losses(losses, confidence)] if losses else []),
        *([_differences(differences, confidence)] if differences else []),
        *([_experts(experts)] if experts else []),
    ]


def _losses(courses: Sequence[Course], confidence: float) -> LineChart:
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
    return _chart(courses, y, "Validation loss over steps", words, banded=courses)


def _differences(courses: Sequence[Course], confidence: float) -> LineChart:
    ours = [course for course in courses if course.arm == LIFECYCLE]
    late = [0.0, *_late(courses, banded=ours)]
    low, high = min(late), max(late)
    margin = 0.06 * (high - low) or 0.01
    words = (
        f"Loss minus that of static over steps, paired by seed: mean; band (lifecycle alone): "
        f"{number(100 * confidence)}% t interval. Below 0 is better than static."
    )
    y = Scale(low - margin, high + margin)
    return _chart(courses, y, "Validation loss minus static's over steps", words, banded=ours)


def _experts(courses: Sequence[Course]) -> LineChart:
    most = max(value for course in courses for _, value in course.mean)
    words = "Experts per layer over steps: mean over layers and seeds."
    y = Scale(0.0, most * 1.08 or 1.0)
    return _chart(courses, y, "Experts per layer over steps", words, steps=True)


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
    caption: str,
    *,
    steps: bool = False,
    banded: Sequence[Course] = (),
) -> LineChart:
    ends = ", ".join(f"{c.arm} {number(c.mean[-1][1], '.4f')}" for c in reversed(courses))
    x = Scale(0.0, max(course.mean[-1][0] for course in courses))
    lines = [
        Line(
            c.arm,
            c.mean,
            arm_look(c.arm),
            steps,
            band=(c.low, c.high) if c in banded else None,
            note=f"{c.seeds} seed{'s' if c.seeds != 1 else ''}",
        )
        for c in courses
    ]
    label = f"{title}. At the end: {ends}"
    return LineChart(label, "", x, y, 240, lines, cut=True, caption=caption)


def dots(verdict: CellVerdict) -> RowChart | None:
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
    return RowChart(
        f"Difference of each seed from each baseline. Means: {means}",
        "",
        _scale([*values, -margin, margin]),
        [Row(c.baseline) for c in compared],
        44.0,
        segments=segments,
        dots=found,
        margin=margin,
        caption=f"Lifecycle minus baseline, nats per token. {_better(number(margin, '.3g'))}",
    )


def overview(verdicts: Sequence[CellVerdict], rules: VerdictRules) -> RowChart | None:
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
    return RowChart(
        f"Lifecycle against static in each cell. {means}",
        "",
        x,
        [Row(cut(name, 22)) for name, _, _ in compared],
        26.0,
        segments=segments,
        dots=found,
        letters=letters,
        margin=margin,
        caption=(
            "Lifecycle against static, % of its loss: mean and interval. "
            f"{_better(f'{number(margin)}%')}"
        ),
    )


def _better(margin: str) -> str:
    return f"Left of 0 the lifecycle is better. Shaded: within the margin of ±{margin}."


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
