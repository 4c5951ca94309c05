"""Figures for a bench's report and terminal: means over an arm's jobs, and numbers as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from chronorun.analysis.reading.fields import figure
from chronorun.bench.evidence.comparisons import LIFECYCLE, Comparison
from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.statistics import told_p
from chronorun.bench.evidence.verdicts import MUST_BEAT, CellVerdict
from chronorun.core.words import finite

MISSING = "–"
STATUSES = ("failed", "skipped", "missing")
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scenario_name(scenario: str) -> str:
    """Return a scenario's name for people: ``none``, where nothing happens to a run, is healthy."""
    return "healthy" if scenario == "none" else scenario


def cell_name(verdict: CellVerdict) -> str:
    """Return scenario and variant."""
    name = scenario_name(verdict.scenario)
    return f"{name}, {verdict.variant}" if verdict.variant else name


def arms_of(results: Iterable[JobResult], verdict: CellVerdict) -> list[str]:
    """Return the arms of a cell: the lifecycle first, the others in the order of their jobs."""
    ordered = sorted(results, key=lambda result: result.number)
    found = dict.fromkeys(r.arm for r in ordered if r.cell == verdict.cell)
    return sorted(found, key=lambda arm: arm != LIFECYCLE)


def jobs_of(results: Iterable[JobResult], verdict: CellVerdict, arm: str) -> list[JobResult]:
    """Return the jobs of one arm of a cell that have metrics."""
    return [r for r in results if r.cell == verdict.cell and r.arm == arm and r.has_metrics]


def values_of(jobs: Iterable[JobResult], metric: str) -> list[float]:
    """Return the finite values of a metric, also of jobs that were not trained themselves."""
    return [value for job in jobs if (value := job.value(metric)) is not None]


def spent_by(jobs: Iterable[JobResult], metric: str) -> list[float]:
    """Return the finite values of a metric, of the jobs that were trained themselves."""
    return values_of((job for job in jobs if job.was_trained), metric)


def measured_by(jobs: Iterable[JobResult], name: str) -> list[float]:
    """Return the wall-clock figures of the jobs that were trained."""
    found = (job.wall.get(name) for job in jobs if job.was_trained)
    return [value for value in found if value is not None]


def seeds(jobs: Sequence[JobResult], unit: str = " trained") -> str:
    """Return how many seeds have a result, and, where not all, how many jobs were trained."""
    trained = sum(job.was_trained for job in jobs)
    return str(len(jobs)) if trained == len(jobs) else f"{len(jobs)} ({trained}{unit})"


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of nothing."""
    return fmean(values) if values else None


def mean_edits(results: Sequence[JobResult], verdict: CellVerdict) -> float | None:
    """Return how many edits the lifecycle made in a cell: the mean over seeds."""
    return mean(values_of(jobs_of(results, verdict, LIFECYCLE), "edits"))


def shown_baselines(verdicts: Sequence[CellVerdict]) -> list[str]:
    """Return the baselines with a column: those that a verdict asks for, else the first three."""
    known = dict.fromkeys(c.baseline for verdict in verdicts for c in verdict.comparisons)
    return [arm for arm in MUST_BEAT if arm in known] or list(known)[:3]


def percents(comparison: Comparison) -> tuple[float, float, float]:
    """Return mean, low and high as percent of the baseline's mean; nan for what is unknown."""
    c = comparison
    if c.mean:
        scale = 100.0 * c.relative_mean / c.mean
        return 100.0 * c.relative_mean, scale * c.low, scale * c.high
    # From a mean of 0 the baseline's loss is not known; an interval of no width needs none.
    ends = [0.0 if end == 0.0 else math.nan for end in (c.low, c.high)]
    return c.mean, ends[0], ends[1]


def signed(value: float | None, minus: str = "−") -> str:
    """Return a number with its sign and about three digits, such as −2.13 or +12.3."""
    known = finite(value)
    if known is None:
        return MISSING if minus != "-" else "-"
    size = abs(known)
    text = figure(known, f"+.{2 if size < 9.995 else 1 if size < 99.95 else 0}f")
    if not text.strip("+0."):
        text = text.replace("+", "")
    return text.replace("−", minus)


def bracketed(comparison: Comparison | None) -> str:
    """Return mean and interval in percent, short and in ASCII: ``-2.13 [-2.50, -1.80]``.

    One seed has no interval.
    """
    if comparison is None:
        return "-"
    middle, low, high = percents(comparison)
    if not (math.isfinite(low) and math.isfinite(high)):
        return signed(middle, "-")
    return f"{signed(middle, '-')} [{signed(low, '-')}, {signed(high, '-')}]"


def interval(comparison: Comparison | None, unit: str = "") -> str:
    """Return mean and interval in percent: ``−2.13 (−2.50 to −1.80)``; one seed has no interval."""
    if comparison is None:
        return MISSING
    middle, low, high = percents(comparison)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{signed(middle)}{unit}"
    return f"{signed(middle)}{unit} ({signed(low)} to {signed(high)})"


def number(value: float | None, form: str = ".4g") -> str:
    """Return a number; a dash for what is not known or not finite."""
    return figure(finite(value), form, MISSING)


def p_value(value: float) -> str:
    """Return a p value with two digits and a true minus sign."""
    return told_p(value).replace("-", "−")


def tost_value(comparison: Comparison, value: float) -> str:
    """Return the p of a TOST; where all seeds differ by the same there is none."""
    return p_value(value) if comparison.has_variance or value else "no variance"


def sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation over seeds (n - 1); None of fewer than two."""
    return stdev(values) if len(values) > 1 else None


def mean_sd(values: Sequence[float], form: str = ".4f") -> str:
    """Return mean ± standard deviation over seeds."""
    spread = sd(values)
    around = "" if spread is None else f" ± {number(spread, form)}"
    return f"{number(mean(values), form)}{around}"


def scaled(value: float | None) -> str:
    """Return a large number in short, such as 1.234 M."""
    known = finite(value)
    for size, unit in _UNITS:
        if known is not None and abs(known) >= size:
            return f"{number(known / size)} {unit}"
    return number(known)


def mebibytes(value: float | None) -> str:
    """Return bytes as MiB."""
    return number(None if value is None else value / 2**20, ",.0f")


def without_result(
    results: Iterable[JobResult], metric: str = "val_loss"
) -> list[tuple[JobResult, str, str]]:
    """Return the jobs without a result, each with its status and the reason."""
    found = []
    for result in sorted(results, key=lambda result: result.number):
        if not result.has_metrics:
            found.append((result, str(result.status), result.reason))
        elif result.value(metric) is None:
            found.append((result, "no loss", f"no finite {metric}"))
    return found


def counted(found: Sequence[tuple[JobResult, str, str]], total: int) -> str:
    """Return how many jobs have no result, by status."""
    if not found:
        return "The 1 job has a result." if total == 1 else f"All {total} jobs have a result."
    counts = Counter(what for _, what, _ in found)
    order = [*STATUSES, *sorted(counts.keys() - set(STATUSES))]
    parts = ", ".join(f"{counts[what]} {what}" for what in order if counts[what])
    return f"{len(found)} of {total} jobs {'has' if len(found) == 1 else 'have'} no result: {parts}"
