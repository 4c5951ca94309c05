"""Verdicts of a bench, from code: where the lifecycle helps, harms, does no harm, or who knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

import msgspec

from chronorun.bench.evidence.comparisons import (
    LIFECYCLE,
    STATIC,
    Comparison,
    Evidence,
    VerdictRules,
    against,
    compare,
)
from chronorun.bench.evidence.results import JobResult, paired
from chronorun.bench.evidence.statistics import holm, seeds_needed, smallest_p, told_p
from chronorun.core.jsonl import encode_json

__all__ = [
    "MUST_BEAT",
    "CellVerdict",
    "Comparison",
    "VerdictRules",
    "judge",
    "to_json",
    "verdict_record",
]

SCHEMA_VERSION = 1
MUST_BEAT = (STATIC, "loss_free", "yoked")
"""The arms that the lifecycle has to beat at once before a cell says HELPS."""

Word = Literal["HELPS", "HARMS", "NO HARM", "INCONCLUSIVE"]


@dataclass(frozen=True)
class CellVerdict:
    """What one cell says, and why.

    ``n`` counts the seeds that both lifecycle and static have. ``help_p`` is the largest
    sign-flip p against the arms of MUST_BEAT; it is 1 where one of them is absent, lacks seeds, or
    has a mean that the lifecycle's is not below, and where the lifecycle itself lost a seed.
    """

    scenario: str
    variant: str
    verdict: Word
    reason: str
    n: int
    comparisons: list[Comparison]
    help_p: float = 1.0
    help_p_holm: float = 1.0

    @property
    def cell(self) -> tuple[str, str]:
        """Return (scenario, variant)."""
        return self.scenario, self.variant


def judge(results: Sequence[JobResult], rules: VerdictRules) -> list[CellVerdict]:
    """Return the verdict of every cell, in the order of the jobs' numbers.

    HELPS: the mean is below that of static, loss_free and yoked, on all seeds, and the largest of
    the three sign-flip p, adjusted by Holm over the cells, is at most alpha. HARMS: the mean is
    above static's with an adjusted sign-flip p of at most alpha. NO HARM: the adjusted TOST p
    against static is at most alpha. Else INCONCLUSIVE, as is every cell with too few seeds for
    any p to pass Holm's first step.

    HELPS goes first. HARMS goes before NO HARM: an effect may be certain and yet within the
    margin, and then the harm must not be hidden. Where the lifecycle has no value for a seed that
    static finished, HELPS and NO HARM are out of reach, since the lost run may be the worst.

    Holm counts the cells whose jobs include both arms, however these ended: the number of tests
    must not depend on their outcome.
    """
    evidence = compare(results, rules)
    tested = [e for e in evidence if e.is_tested]
    help_p = [_help_p(e) for e in tested]
    helps = dict(zip((e.cell for e in tested), zip(help_p, holm(help_p), strict=True), strict=True))
    verdicts = []
    for e in evidence:
        p, p_holm = helps.get(e.cell, (1.0, 1.0))
        word, reason = _word(e, p_holm, len(tested), rules)
        verdicts.append(CellVerdict(*e.cell, word, reason, e.n, e.comparisons, p, p_holm))
    return verdicts


def _to_beat(evidence: Evidence) -> list[Comparison]:
    found = (against(evidence.comparisons, arm) for arm in MUST_BEAT)
    return [comparison for comparison in found if comparison is not None]


def _help_p(evidence: Evidence) -> float:
    if evidence.lost() or any(evidence.lacking(arm) for arm in MUST_BEAT):
        return 1.0
    return max((c.p if c.mean < 0 else 1.0 for c in _to_beat(evidence)), default=1.0)


def _word(evidence: Evidence, help_p_holm: float, m: int, rules: VerdictRules) -> tuple[Word, str]:
    for arm in (LIFECYCLE, STATIC):
        if arm not in evidence.values:
            return "INCONCLUSIVE", f"no job of {arm}"
    static = against(evidence.comparisons, STATIC)
    if static is None or m * smallest_p(evidence.n) > rules.alpha:
        return "INCONCLUSIVE", _too_few(evidence, m, rules)
    if help_p_holm <= rules.alpha:
        return "HELPS", f"better than {_listed(MUST_BEAT)} (Holm p {help_p_holm:.2g})"
    if static.mean > 0 and static.p_holm <= rules.alpha:
        return "HARMS", _harm(static, rules)
    obstacle = _obstacle(evidence, help_p_holm, m, rules)
    if static.tost_p_holm <= rules.alpha and not evidence.lost():
        shown = (
            f"Holm TOST p {told_p(static.tost_p_holm)}" if static.has_variance else "no variance"
        )
        equal = f"within {_percent(rules.margin)} of static ({shown})"
        return "NO HARM", f"{equal}; {obstacle}"
    return "INCONCLUSIVE", obstacle


def _too_few(evidence: Evidence, m: int, rules: VerdictRules) -> str:
    """Say why there are too few pairs: too few seeds were run, or some of them gave no result."""
    run = evidence.seeds_run
    n, parts = len(run), []
    if evidence.n < n:
        lost = [(arm, len(run - evidence.values[arm].keys())) for arm in (LIFECYCLE, STATIC)]
        (most, first), (other, second) = sorted(lost, key=lambda item: -item[1])
        seeds = "seed" if n == 1 else "seeds"
        parts.append(f"{most} has no result on {first} of {n} {seeds} ({other} on {second})")
    if m * smallest_p(n) > rules.alpha:
        parts.append(f"needs {seeds_needed(m, rules.alpha)} seeds")
    return "; ".join(parts)


def _harm(static: Comparison, rules: VerdictRules) -> str:
    within = static.tost_p_holm <= rules.alpha
    small = f", yet within the margin of {_percent(rules.margin)}" if within else ""
    by = _percent(static.relative_mean)
    return f"worse than static by {by} (Holm p {static.p_holm:.2g}){small}"


def _obstacle(evidence: Evidence, help_p_holm: float, m: int, rules: VerdictRules) -> str:
    """Say what stands between the cell and HELPS."""
    if lost := evidence.lost():
        return f"{LIFECYCLE} lacks {_seeds(lost)}"
    if gaps := _gaps(evidence):
        return gaps
    rivals = _to_beat(evidence)
    better = [c.baseline for c in rivals if c.mean < 0 and c.p <= rules.alpha]
    if len(better) == len(rivals):
        found = f"better than {_listed(better)} in this cell alone"
        return f"{found}, not over {m} cells (Holm p {help_p_holm:.2g})"
    return _shortfall(better, [c for c in rivals if c.baseline not in better], rules)


def _gaps(evidence: Evidence) -> str:
    lacking = {arm: evidence.lacking(arm) for arm in MUST_BEAT if evidence.lacking(arm)}
    absent = [arm for arm in lacking if against(evidence.comparisons, arm) is None]
    parts = [f"not compared with {', '.join(absent)}"] if absent else []
    parts += [f"{arm} lacks {_seeds(s)}" for arm, s in lacking.items() if arm not in absent]
    return ", ".join(parts)


def _shortfall(better: list[str], rest: list[Comparison], rules: VerdictRules) -> str:
    worse = [c for c in rest if c.mean > 0 and c.p <= rules.alpha]
    unclear = [c for c in rest if c not in worse]
    parts = [f"better than {_listed(better)}"] if better else []
    if unclear:
        start = "not than" if better else "not better than"
        parts.append(f"{start} {_listed([f'{c.baseline} (p {c.p:.2g})' for c in unclear])}")
    if worse:
        parts.append(f"worse than {_listed([f'{c.baseline} (p {c.p:.2g})' for c in worse])}")
    return ", ".join(parts)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _percent(part: float) -> str:
    return f"{100 * part:.2g}%"


def to_json(
    verdicts: Sequence[CellVerdict],
    rules: VerdictRules,
    sweep_id: str,
    results: Sequence[JobResult],
) -> bytes:
    """Return the content of ``verdicts.json``; figures that cannot be told are null."""
    record = verdict_record(verdicts, rules, sweep_id, results)
    return msgspec.json.format(encode_json(record), indent=2) + b"\n"


def verdict_record(
    verdicts: Sequence[CellVerdict],
    rules: VerdictRules,
    sweep_id: str,
    results: Sequence[JobResult],
) -> dict[str, Any]:
    """Return what ``verdicts.json`` holds.

    Two sweeps of equal seeds have equal records but for ``wall``, which holds each arm's mean
    wall-clock figures over the jobs that were trained.
    """
    ordered = sorted(results, key=lambda result: result.number)
    return {
        "schema_version": SCHEMA_VERSION,
        "sweep_id": sweep_id,
        "rules": asdict(rules),
        "must_beat": list(MUST_BEAT),
        "cells": [asdict(v) | {"arms": _arm_means(ordered, v, rules.metric)} for v in verdicts],
        "jobs": dict(sorted(Counter(result.status for result in results).items())),
        "jobs_without_result": _without_result(ordered, rules.metric),
        "wall": _wall(ordered),
    }


def _arm_means(
    ordered: Sequence[JobResult], verdict: CellVerdict, metric: str
) -> dict[str, dict[str, float | None]]:
    """Return each arm's mean over all the seeds it has, which may be more than were paired."""
    means = {}
    for arm in dict.fromkeys(result.arm for result in ordered if result.cell == verdict.cell):
        known = list(paired(ordered, *verdict.cell, arm, metric).values())
        means[arm] = {"n": len(known), f"mean_{metric}": _mean(known)}
    return means


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _without_result(ordered: Sequence[JobResult], metric: str) -> list[dict[str, Any]]:
    fields = ("number", "folder", "arm", "scenario", "variant", "seed", "status")
    return [
        {name: getattr(result, name) for name in fields}
        | {"reason": f"no finite {metric}" if result.has_metrics else result.reason}
        for result in ordered
        if result.value(metric) is None
    ]


def _wall(ordered: Sequence[JobResult]) -> dict[str, dict[str, float | None]]:
    trained = [result for result in ordered if result.was_trained]
    return {
        arm: _means_by_name(result.wall for result in trained if result.arm == arm)
        for arm in dict.fromkeys(result.arm for result in trained)
    }


def _means_by_name(rows: Iterable[dict[str, float | None]]) -> dict[str, float | None]:
    known: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            known.setdefault(name, []).extend([] if value is None else [value])
    return {name: _mean(values) for name, values in sorted(known.items())}
