"""The comparisons of a bench: the lifecycle against every arm, paired by seed, cell by cell.

A cell is one (scenario, variant). Holm's correction goes over the cells, for each baseline and
each kind of test by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from chronorun.bench.evidence.results import JobResult, cells, paired
from chronorun.bench.evidence.statistics import bca_interval, holm, sign_flip_p, tost_p
from chronorun.errors import UserError

LIFECYCLE = "lifecycle"
STATIC = "static"
Cell = tuple[str, str]


@dataclass(frozen=True)
class VerdictRules:
    """What a verdict asks for. ``margin`` is a part of the mean ``metric`` of the static arm.

    Raises UserError for a value out of its range.
    """

    margin: float = 0.005
    alpha: float = 0.05
    confidence: float = 0.95
    metric: str = "val_loss"

    def __post_init__(self) -> None:
        for name in ("margin", "alpha", "confidence"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise UserError(
                    f"verdicts: {name}={value}, expected a number above 0 and below 1; "
                    f"set bench.{name}"
                )


@dataclass(frozen=True)
class Comparison:
    """The lifecycle against one arm, on the seeds that both have.

    ``differences`` (by seed), ``mean``, ``low``, ``high`` and ``margin`` are in the unit of the
    metric, nats per token; ``relative_mean`` is a part of the arm's mean. Below 0 favours the
    lifecycle. ``p`` is of the sign-flip test, ``tost_p`` of equivalence within the margin; the
    ``_holm`` ones are adjusted over the cells. Figures that cannot be told are nan, p values 1.
    """

    baseline: str
    n: int
    differences: dict[int, float]
    mean: float
    relative_mean: float
    low: float
    high: float
    p: float
    p_holm: float
    tost_p: float
    tost_p_holm: float
    margin: float

    @property
    def has_variance(self) -> bool:
        """Whether the differences differ; without it no t test has a p to tell."""
        return len(set(self.differences.values())) > 1


@dataclass(frozen=True)
class Evidence:
    """A cell before the verdict.

    ``run`` holds the seeds of each arm's jobs, however these ended, ``values`` the finite values
    of the metric by arm and seed; ``seeds`` are those of the lifecycle that static has, too (all
    of them in a cell without the static arm).
    """

    cell: Cell
    run: dict[str, set[int]]
    values: dict[str, dict[int, float]]
    seeds: tuple[int, ...]
    comparisons: list[Comparison]

    @property
    def is_tested(self) -> bool:
        """Whether the cell has jobs of both arms, however they ended."""
        return LIFECYCLE in self.values and STATIC in self.values

    @property
    def n(self) -> int:
        """Return how many seeds both lifecycle and static have."""
        return len(self.seeds) if self.is_tested else 0

    @property
    def seeds_run(self) -> set[int]:
        """Return the seeds that both lifecycle and static have jobs of, however these ended."""
        return self.run.get(LIFECYCLE, set()) & self.run.get(STATIC, set())

    def lacking(self, arm: str) -> list[int]:
        """Return the seeds of this comparison that an arm has no value for."""
        return [seed for seed in self.seeds if seed not in self.values.get(arm, {})]

    def lost(self) -> list[int]:
        """Return the seeds that static has a value for and the lifecycle has not."""
        return sorted(self.values[STATIC].keys() - self.values[LIFECYCLE].keys())


def against(comparisons: Sequence[Comparison], baseline: str) -> Comparison | None:
    """Return the comparison with an arm; None where no seed allows one."""
    return next((c for c in comparisons if c.baseline == baseline and c.n), None)


def compare(results: Sequence[JobResult], rules: VerdictRules) -> list[Evidence]:
    """Return every cell's comparisons, in the order of the jobs' numbers, not of ``results``."""
    ordered = sorted(results, key=lambda result: result.number)
    return _adjusted([_evidence(ordered, cell, rules) for cell in cells(ordered)])


def _evidence(ordered: Sequence[JobResult], cell: Cell, rules: VerdictRules) -> Evidence:
    run: dict[str, set[int]] = {}
    for result in ordered:
        if result.cell == cell:
            run.setdefault(result.arm, set()).add(result.seed)
    values = {arm: paired(ordered, *cell, arm, rules.metric) for arm in run}
    ours = values.get(LIFECYCLE, {})
    seeds = tuple(seed for seed in ours if seed in values.get(STATIC, ours))
    static = [values[STATIC][seed] for seed in seeds] if STATIC in values else []
    margin = rules.margin * fmean(static) if static else math.nan
    comparisons = [
        _compare(arm, ours, values[arm], seeds, margin, rules)
        for arm in run
        if arm != LIFECYCLE and LIFECYCLE in run
    ]
    return Evidence(cell, run, values, seeds, comparisons)


def _compare(
    arm: str,
    ours: dict[int, float],
    theirs: dict[int, float],
    seeds: Sequence[int],
    margin: float,
    rules: VerdictRules,
) -> Comparison:
    shared = [seed for seed in seeds if seed in theirs]
    differences = {seed: ours[seed] - theirs[seed] for seed in shared}
    sample = list(differences.values())
    mean = fmean(sample) if sample else math.nan
    level = fmean(theirs[seed] for seed in shared) if shared else math.nan
    low, high = bca_interval(sample, rules.confidence)
    p, equivalence = sign_flip_p(sample), tost_p(sample, margin)
    return Comparison(
        baseline=arm,
        n=len(shared),
        differences=differences,
        mean=mean,
        relative_mean=mean / level if level else math.nan,
        low=low,
        high=high,
        p=p,
        p_holm=p,
        tost_p=equivalence,
        tost_p_holm=equivalence,
        margin=margin,
    )


def _adjusted(evidence: list[Evidence]) -> list[Evidence]:
    """Adjust both p values of each baseline over the cells that have that arm."""
    p_holm = _holm_by_baseline(evidence, lambda comparison: comparison.p)
    tost_p_holm = _holm_by_baseline(evidence, lambda comparison: comparison.tost_p)
    return [
        replace(
            e,
            comparisons=[
                replace(
                    c,
                    p_holm=p_holm[e.cell, c.baseline],
                    tost_p_holm=tost_p_holm[e.cell, c.baseline],
                )
                for c in e.comparisons
            ],
        )
        for e in evidence
    ]


def _holm_by_baseline(
    evidence: list[Evidence], p_of: Callable[[Comparison], float]
) -> dict[tuple[Cell, str], float]:
    families: dict[str, dict[Cell, float]] = {}
    for e in evidence:
        for comparison in e.comparisons:
            families.setdefault(comparison.baseline, {})[e.cell] = p_of(comparison)
    return {
        (cell, baseline): p
        for baseline, family in families.items()
        for cell, p in zip(family, holm(list(family.values())), strict=True)
    }
