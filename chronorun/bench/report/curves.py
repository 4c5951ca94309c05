"""The courses of a bench's arms over steps: validation loss with intervals, and population."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from chronorun.analysis.reading.fields import shown
from chronorun.analysis.reading.text import shown as line_of
from chronorun.analysis.reading.thinning import Point
from chronorun.analysis.report.svg import (
    Scale,
    frame,
    path,
    picture,
    polyline,
    stretched,
    tag,
)
from chronorun.bench.evidence.comparisons import LIFECYCLE, STATIC
from chronorun.bench.evidence.course import read_course
from chronorun.bench.evidence.results import JobResult
from chronorun.bench.report.figures import number
from chronorun.bench.report.style import arm_class
from chronorun.core.run_files import log_file
from chronorun.errors import ChronorunError

MOST_POINTS = 200
"""Points of a line at most."""
HEIGHT = 240
ArmKey = tuple[str, str, str]
"""Scenario, variant, arm."""


@dataclass(frozen=True)
class Curve:
    """The course of one job, by step: validation loss, and experts as the mean over layers."""

    val_loss: dict[int, float] = field(default_factory=dict)
    population: dict[int, float] = field(default_factory=dict)


Curves = Mapping[ArmKey, Mapping[int, Curve]]
"""Curves by arm of a cell, then by seed."""


@dataclass(frozen=True)
class Course:
    """The mean over seeds at each step, between the ends of its interval."""

    arm: str
    seeds: int
    mean: list[Point]
    low: list[Point]
    high: list[Point]


def read_curves(results: Sequence[JobResult], sweep_dir: Path) -> Curves:
    """Read the curves of all jobs that stand in a comparison.

    A job that followed no edit was not trained: the curve of the lifecycle of its seed stands for
    it, as its metrics do. A log that is missing or damaged gives no curve; the report counts them.
    """
    found: dict[ArmKey, dict[int, Curve]] = {}
    ordered = sorted(results, key=lambda result: result.number)
    for result in ordered:
        if result.was_trained and (curve := _read(sweep_dir / result.folder)):
            found.setdefault(_key(result), {})[result.seed] = curve
    for result in ordered:
        source = found.get((result.scenario, result.variant, LIFECYCLE), {}).get(result.seed)
        if result.status == "no_edit" and source is not None:
            found.setdefault(_key(result), {})[result.seed] = source
    return found


def without_curve(results: Sequence[JobResult], curves: Curves) -> int:
    """Return how many jobs with metrics have no curve."""
    here = (r for r in results if r.has_metrics)
    return sum(result.seed not in curves.get(_key(result), {}) for result in here)


def _key(result: JobResult) -> ArmKey:
    return result.scenario, result.variant, result.arm


def _read(folder: Path) -> Curve | None:
    try:
        found = read_course(folder / log_file("metrics"))
    except (ChronorunError, OSError):
        return None
    curve = Curve(dict(zip(found.steps, found.losses, strict=True)))
    for step, layers in zip(found.steps, found.by_layer, strict=True):
        if sizes := [m["num_experts"] for m in layers.values() if "num_experts" in m]:
            curve.population[step] = fmean(sizes)
    return curve if curve.val_loss else None


def course(arm: str, curves: Iterable[Mapping[int, float]], confidence: float) -> Course | None:
    """Return the mean of several curves at the steps that all of them have, with t intervals.

    None where no step is shared. With one seed the interval has no width.
    """
    known = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*(set(curve) for curve in known))) if known else []
    if not steps:
        return None
    stride = math.ceil(len(steps) / MOST_POINTS)
    steps = sorted({*steps[::stride], steps[-1]})
    reach = _t(len(known), confidence) / math.sqrt(len(known))
    middles, halves = [], []
    for step in steps:
        values = [curve[step] for curve in known]
        middles.append(fmean(values))
        halves.append(reach * stdev(values) if len(values) > 1 else 0.0)
    mean, low, high = (
        [(float(s), m + side * h) for s, m, h in zip(steps, middles, halves, strict=True)]
        for side in (0, -1, 1)
    )
    return Course(arm, len(known), mean, low, high)


def _t(n: int, confidence: float) -> float:
    if n < 2:
        return 0.0
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, n - 1))


def cell_courses(
    curves: Curves, scenario: str, variant: str, confidence: float, what: str
) -> list[Course]:
    """Return the courses of a cell's arms, the lifecycle last, so that it is drawn on top.

    ``what`` is ``val_loss`` or ``population``.
    """
    arms = [arm for s, v, arm in curves if (s, v) == (scenario, variant)]
    found = []
    for arm in sorted(arms, key=lambda arm: arm == LIFECYCLE):
        jobs = curves[scenario, variant, arm].values()
        drawn = course(arm, (getattr(job, what) for job in jobs), confidence)
        found += [] if drawn is None else [drawn]
    return found


def difference_courses(
    curves: Curves, scenario: str, variant: str, confidence: float
) -> list[Course]:
    """Return each arm's validation loss minus static's, paired by seed, the lifecycle last."""
    static = curves.get((scenario, variant, STATIC), {})
    paired: dict[ArmKey, dict[int, Curve]] = {}
    for (s, v, arm), jobs in curves.items():
        if (s, v) == (scenario, variant) and arm != STATIC:
            paired[s, v, arm] = {
                seed: Curve(_minus(job.val_loss, static[seed].val_loss))
                for seed, job in jobs.items()
                if seed in static
            }
    return cell_courses(paired, scenario, variant, confidence, "val_loss")


def _minus(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    return {step: value - theirs[step] for step, value in ours.items() if step in theirs}


def cell_figures(curves: Curves, scenario: str, variant: str, confidence: float) -> str:
    """Return the courses of a cell as HTML: losses, losses against static, experts, one key."""
    losses = cell_courses(curves, scenario, variant, confidence, "val_loss")
    against = difference_courses(curves, scenario, variant, confidence)
    experts = cell_courses(curves, scenario, variant, confidence, "population")
    drawn = [loss_figure(losses, confidence), difference_figure(against, confidence)]
    drawn.append(population_figure(experts))
    keys = "".join(key(course) for course in reversed(losses or experts))
    return f'<p class="keys">{keys}</p><div class="trio">{"".join(drawn)}</div>' if keys else ""


def loss_figure(courses: Sequence[Course], confidence: float) -> str:
    """Return validation losses over steps, as HTML."""
    if not courses:
        return ""
    y, cut = _loss_scale(courses)
    note = f" Above {number(y.high)} cut off." if cut else ""
    words = (
        f"Validation loss over steps, nats per token: mean over seeds; band: "
        f"{number(100 * confidence)}% t interval of the mean.{note}"
    )
    return _figure(courses, y, words, "Validation loss over steps", banded=courses)


def difference_figure(courses: Sequence[Course], confidence: float) -> str:
    """Return validation losses minus static's over steps, as HTML."""
    if not courses:
        return ""
    ours = [course for course in courses if course.arm == LIFECYCLE]
    late = [0.0, *_late(courses, banded=ours)]
    low, high = min(late), max(late)
    margin = 0.06 * (high - low) or 0.01
    words = (
        f"Loss minus that of static over steps, paired by seed: mean; band (lifecycle alone): "
        f"{number(100 * confidence)}% t interval. Below 0 is better than static."
    )
    y = Scale(low - margin, high + margin)
    title = "Validation loss minus static's over steps"
    return _figure(courses, y, words, title, banded=ours)


def population_figure(courses: Sequence[Course]) -> str:
    """Return experts over steps, as HTML."""
    if not courses:
        return ""
    most = max(value for course in courses for _, value in course.mean)
    words = "Experts per layer over steps: mean over layers and seeds."
    y = Scale(0.0, most * 1.08 or 1.0)
    return _figure(courses, y, words, "Experts per layer over steps", steps=True)


def _loss_scale(courses: Sequence[Course]) -> tuple[Scale, bool]:
    """Return a scale that the high losses of the first steps do not press flat."""
    late = _late(courses, banded=courses)
    low, high = min(late), max(late)
    margin = 0.06 * (high - low) or 0.5
    highest = max(value for course in courses for _, value in course.high)
    return Scale(low - margin, high + margin), highest > high + margin


def _late(courses: Sequence[Course], banded: Sequence[Course]) -> list[float]:
    """Return the values that are drawn after the first 15% of the steps."""
    last = max(course.mean[-1][0] for course in courses)
    lines = [course.mean for course in courses]
    lines += [line for course in banded for line in (course.low, course.high)]
    return [value for line in lines for step, value in line if step >= 0.15 * last]


def _figure(
    courses: Sequence[Course],
    y: Scale,
    words: str,
    title: str,
    *,
    steps: bool = False,
    banded: Sequence[Course] = (),
) -> str:
    x = Scale(0.0, max(course.mean[-1][0] for course in courses))
    bands = "".join(_band(course, x, y) for course in banded)
    lines = "".join(
        path(
            polyline(course.mean, x, y, HEIGHT, steps=steps),
            f"line {arm_class(course.arm)}",
            course.arm,
        )
        for course in courses
    )
    drawn = [frame(x, y, HEIGHT), stretched(bands + lines, HEIGHT, clip=True)]
    if y.low < 0.0 < y.high:
        zero = HEIGHT * (1 - y.at(0.0))
        drawn.append(tag("line", x1="0", x2="100%", y1=zero, y2=zero, class_="zero"))
    label = f"{title}. At the end: {_ends(courses)}"
    caption = f"<figcaption>{shown(words, 400)}</figcaption>"
    return f"<figure>{caption}{picture(drawn, HEIGHT, shown_label(label))}</figure>"


def _band(course: Course, x: Scale, y: Scale) -> str:
    there = polyline(course.high, x, y, HEIGHT, steps=False)
    back = polyline(course.low[::-1], x, y, HEIGHT, steps=False)
    return path(f"{there}L{back[1:]}Z", f"band {arm_class(course.arm)}")


def _ends(courses: Sequence[Course]) -> str:
    return ", ".join(f"{c.arm} {number(c.mean[-1][1], '.4f')}" for c in reversed(courses))


def shown_label(label: str) -> str:
    """Return a text alternative without control characters; the picture escapes its markup."""
    return line_of(label, 1000)


def key(course: Course) -> str:
    """Return the sample and the name of an arm, for above the plot: there it covers nothing."""
    line = tag("line", x1=0, x2=28, y1=5, y2=5, class_=f"line {arm_class(course.arm)}")
    sample = f'<svg width="28" height="10" aria-hidden="true">{line}</svg>'
    seeds = f"{course.seeds} seed{'s' if course.seeds != 1 else ''}"
    return f'<span class="key">{sample}{shown(course.arm, 40)} <small>({seeds})</small></span>'
