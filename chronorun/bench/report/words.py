"""A bench in words: where the lifecycle helps, where it does not, where it hurts."""

from __future__ import annotations

from collections.abc import Sequence

from chronorun.bench.evidence.comparisons import STATIC, against
from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import MUST_BEAT, CellVerdict, VerdictRules
from chronorun.bench.report.figures import (
    cell_name,
    interval,
    number,
    p_value,
    percents,
    scenario_name,
    signed,
)

_VERDICTS = (
    ("HELPS", "It helps"),
    ("NO HARM", "No harm, and no proven help"),
    ("HARMS", "It hurts"),
    ("INCONCLUSIVE", "Undecided"),
)


def opening(
    verdicts: Sequence[CellVerdict], results: Sequence[JobResult], rules: VerdictRules
) -> str:
    """Return what was compared, and how many cells have each verdict."""
    counts = [(word, sum(v.verdict == word for v in verdicts)) for word, _ in _VERDICTS]
    listed = ", ".join(f"{n} {word}" for word, n in counts)
    seeds = len({result.seed for result in results})
    arms = ", ".join(dict.fromkeys(result.arm for result in results)) or "none"
    rows = "cell" if any(verdict.variant for verdict in verdicts) else "scenario"
    return (
        f"{_count(len(results), 'job')}: {_count(len(verdicts), rows)}, {_count(seeds, 'seed')}, "
        f"arms {arms}. Verdicts on {rules.metric}: {listed}."
    )


def summary(verdicts: Sequence[CellVerdict], rules: VerdictRules) -> list[tuple[str, list[str]]]:
    """Return for each kind of verdict a label and one sentence a cell, also where none has it."""
    return [
        (
            f"{label}: {sum(v.verdict == word for v in verdicts)} of {len(verdicts)}",
            [_sentence(verdict, rules) for verdict in verdicts if verdict.verdict == word],
        )
        for word, label in _VERDICTS
    ]


def reading(rules: VerdictRules) -> list[str]:
    """Return how verdicts are reached."""
    level = f"{number(100 * rules.confidence)}%"
    return [
        f"Differences are lifecycle minus baseline in {rules.metric} (nats per token), paired by "
        f"seed: below 0 favours the lifecycle. Intervals: {level} BCa bootstrap intervals of the "
        f"mean.",
        f"HELPS: better than {', '.join(MUST_BEAT[:-1])} and {MUST_BEAT[-1]} at once; the largest "
        f"of their sign-flip p counts, at most {number(rules.alpha)} after Holm over the cells.",
        f"HARMS: worse than static, Holm p at most {number(rules.alpha)}.",
        f"NO HARM: equivalent to static within {number(100 * rules.margin)}% of its loss (TOST, "
        f"Holm p at most {number(rules.alpha)}).",
        "INCONCLUSIVE: none of these could be shown.",
        "yoked makes as many edits of the same kinds at the same steps, on other targets drawn at "
        "random. A job marked no_edit had no edit to follow and counts as equal to the lifecycle.",
    ]


def _sentence(verdict: CellVerdict, rules: VerdictRules) -> str:
    name, wanted = cell_name(verdict), [STATIC]
    if verdict.verdict == "HELPS":
        wanted = list(MUST_BEAT)
    found = [(arm, against(verdict.comparisons, arm)) for arm in wanted]
    figures = ", ".join(f"{interval(c, '%')} against {arm}" for arm, c in found if c is not None)
    return f"{name}: {'; '.join(filter(None, [figures, verdict.reason]))}.{_others(verdict, rules)}"


def _others(verdict: CellVerdict, rules: VerdictRules) -> str:
    """Name the arms that the lifecycle was not shown to beat and that HELPS does not ask for."""
    if verdict.verdict != "HELPS":
        return ""
    unbeaten = [
        f"{c.baseline} ({signed(percents(c)[0])}%, p {p_value(c.p)})"
        for c in verdict.comparisons
        if c.baseline not in MUST_BEAT and c.n and not (c.mean < 0 and c.p <= rules.alpha)
    ]
    return f" Not shown to be better than {', '.join(unbeaten)}." if unbeaten else ""


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def seeds_listed(results: Sequence[JobResult]) -> str:
    """Return the seeds of a sweep, neighbours as a range: ``0 to 9, 12``."""
    spans: list[list[int]] = []
    for seed in sorted({result.seed for result in results}):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(_span(*span) for span in spans)


def _span(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first} to {last}" if last > first + 1 else f"{first}, {last}"


def scenarios_listed(verdicts: Sequence[CellVerdict]) -> str:
    """Return the scenarios of a sweep."""
    return ", ".join(dict.fromkeys(scenario_name(verdict.scenario) for verdict in verdicts))
