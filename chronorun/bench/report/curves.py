"""The curves of a bench's jobs, and their means over seeds: validation loss and population."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from chronorun.analysis.reading.series import Point
from chronorun.bench.evidence.comparisons import LIFECYCLE, STATIC
from chronorun.bench.evidence.course import read_course
from chronorun.bench.evidence.results import JobResult
from chronorun.core.run_files import log_file
from chronorun.errors import ChronorunError

MOST_POINTS = 200
"""Points of a line at most."""
ArmKey = tuple[str, str, str]
"""Scenario, variant, arm."""


@dataclass(frozen=True)
class Curve:
    """One job by step: validation loss, and experts as the mean over layers."""

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
    """Read the curves of all jobs with metrics.

    A follower without an edit to follow was not trained: it has the curve of the lifecycle of its
    seed, as it has its metrics. A missing or damaged log gives no curve; the report counts them.
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
    """Return the course of each arm of a cell, the lifecycle last, so that it is drawn on top.

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
