"""The tables of a bench's report, as plain text that Markdown and HTML both show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from chronorun.bench.evidence.comparisons import against
from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules
from chronorun.bench.report.figures import (
    MISSING,
    arms_of,
    cell_name,
    interval,
    jobs_of,
    mean,
    mean_edits,
    mean_sd,
    measured_by,
    mebibytes,
    number,
    p_value,
    scaled,
    scenario_name,
    seeds,
    shown_baselines,
    spent_by,
    tost_value,
    values_of,
    without_result,
)

WHY = "why"
Measure = Callable[[Sequence[JobResult]], str]
"""Shows a figure of the jobs of one arm of a cell."""


@dataclass(frozen=True)
class Table:
    """A table of plain texts; the first ``words`` columns and ``why`` hold no figures.

    Reasons are long: HTML shows ``why`` on a line of its own below the row.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    words: int = 1

    def kind(self, column: int) -> str:
        """Return how a column is set: n for figures, below for reasons, else name, why or w."""
        name = self.columns[column]
        if name == WHY:
            return "below"
        if column >= self.words:
            return "n"
        return "why" if name == "folder" else "w" if column else "name"

    def below(self, row: Sequence[str]) -> str:
        """Return the reason of a row."""
        return row[self.columns.index(WHY)] if WHY in self.columns else ""


def verdict_table(verdicts: Sequence[CellVerdict], results: Sequence[JobResult]) -> Table:
    """Return one row a cell: the verdict, and the lifecycle against the arms it has to beat."""
    baselines = shown_baselines(verdicts)
    rows = [
        (
            cell_name(verdict),
            verdict.verdict,
            *(interval(against(verdict.comparisons, baseline)) for baseline in baselines),
            number(mean_edits(results, verdict), ".1f"),
            str(verdict.n),
            verdict.reason,
        )
        for verdict in verdicts
    ]
    names = tuple(f"{baseline}, %" for baseline in baselines)
    return Table(
        "Verdicts",
        ("scenario", "verdict", *names, "edits", "seeds", WHY),
        rows,
        "Lifecycle minus baseline in percent of the baseline's loss, with its bootstrap interval; "
        "below 0 favours the lifecycle. Edits: mean over seeds.",
        words=2,
    )


def comparison_table(verdict: CellVerdict) -> Table:
    """Return a cell's comparisons with every baseline."""
    rows = [
        (
            c.baseline,
            str(c.n),
            number(c.mean, "+.5f"),
            interval(c) if c.n else MISSING,
            *(p_value(p) if c.n else MISSING for p in (c.p, c.p_holm)),
            *(tost_value(c, p) if c.n else MISSING for p in (c.tost_p, c.tost_p_holm)),
        )
        for c in verdict.comparisons
    ]
    return Table(
        "Comparisons",
        ("baseline", "seeds", "nats per token", "%", "p", "Holm p", "TOST p", "Holm TOST p"),
        rows,
        "Lifecycle minus baseline, paired by seed. p: exact sign-flip test; Holm over the cells. "
        "No variance: all seeds differ by the same, within the margin.",
    )


def compute_table(results: Sequence[JobResult], verdict: CellVerdict, rules: VerdictRules) -> Table:
    """Return the loss of each arm of a cell, and what it cost."""
    rows = []
    for arm in arms_of(results, verdict):
        jobs = jobs_of(results, verdict, arm)
        rows.append(
            (
                arm,
                seeds(jobs),
                mean_sd(values_of(jobs, rules.metric)),
                scaled(mean(spent_by(jobs, "active_flops_per_token"))),
                scaled(mean(spent_by(jobs, "executed_flops"))),
                scaled(mean(spent_by(jobs, "parameter_steps"))),
                number(mean(spent_by(jobs, "mean_population")), ".2f"),
                number(mean(spent_by(jobs, "final_population")), ".2f"),
                mebibytes(mean(measured_by(jobs, "peak_memory_bytes"))),
                number(mean(measured_by(jobs, "seconds")), ",.1f"),
            )
        )
    return Table(
        "Loss and compute",
        (
            "arm", "seeds", "validation loss", "active FLOPs per token", "executed FLOPs",
            "parameters × steps", "mean experts", "experts at the end", "peak MiB", "seconds",
        ),
        rows,
        "Means over seeds; the loss with its standard deviation over seeds, in nats per token. "
        "All but the loss is of trained jobs alone: a job without an edit to follow takes over the "
        "loss of the lifecycle and spends nothing. Executed FLOPs include probes. Experts: per "
        "layer. Peak memory and seconds depend on the machine.",
    )  # fmt: skip


def routing_table(results: Sequence[JobResult], verdict: CellVerdict) -> Table:
    """Return how healthy routing was, and what the lifecycle did."""
    columns: dict[str, Measure] = {
        "N_eff": _plain("n_effective", ".2f"),
        "mean N_eff": _plain("n_effective_mean", ".2f"),
        "dead-expert steps": _plain("dead_expert_steps", ".1f"),
        "MaxVio": _plain("max_vio", ".3f"),
        "mean MaxVio": _plain("max_vio_mean", ".3f"),
        "dropped": _plain("dropped_fraction", ".2%"),
        "edits": _plain("edits", ".1f"),
        "deferrals": _own("deferrals", ".1f"),
        "blocked": _own("blocked", ".1f"),
        "rollbacks": _own("rollbacks", ".1f"),
        "predicted": _own("predicted_benefit", "+.5f"),
        "realised": _own("realised_benefit", "+.5f"),
    }
    note = (
        "Means over seeds; deferrals and what follows: of trained jobs alone. N_eff and MaxVio: at "
        "the end, and over the run. Benefits: in nats of probe loss, below 0 where edits help."
    )
    if kinds := _edit_kinds(results, verdict):
        note += f" Edits by kind: {kinds}."
    return _arm_table("Routing and edits", columns, results, verdict, note)


def loss_table(results: Sequence[JobResult], verdict: CellVerdict) -> Table:
    """Return further losses of a cell, and the recovery where a scenario disturbed the run."""
    columns: dict[str, Measure] = {
        "area under the loss": _plain("val_loss_auc", ".4f"),
        "per byte": _plain("val_loss_per_byte", ".4f"),
    }
    for name in _metric_names(results, verdict):
        if name.startswith("val_loss/"):
            columns[name.removeprefix("val_loss/")] = _plain(name, ".4f")
    note = "Means over seeds; nats per token unless said otherwise."
    if any(_events(jobs_of(results, verdict, arm)) for arm in arms_of(results, verdict)):
        columns["excess loss"] = _plain("excess_loss", ".4f")
        columns["recovery steps"] = _recovery_steps
        columns["censored"] = _censored
        note += (
            " Excess loss: after the event, above the course before it. Recovery: median steps "
            "over all seeds with an event; a seed that did not recover within the run is censored "
            "and counts as longer than all others."
        )
    return _arm_table("Further losses", columns, results, verdict, note)


def jobs_table(results: Sequence[JobResult], rules: VerdictRules) -> Table | None:
    """Return the jobs without a result; None where all have one."""
    found = without_result(results, rules.metric)
    rows = [
        (
            str(r.number), what, scenario_name(r.scenario), r.variant or MISSING, r.arm,
            str(r.seed), r.folder or MISSING, reason,
        )
        for r, what, reason in found
    ]  # fmt: skip
    columns = ("job", "status", "scenario", "variant", "arm", "seed", "folder", WHY)
    return Table("Jobs without a result", columns, rows, words=len(columns)) if rows else None


def _arm_table(
    title: str,
    columns: dict[str, Measure],
    results: Sequence[JobResult],
    verdict: CellVerdict,
    note: str,
) -> Table:
    rows = []
    for arm in arms_of(results, verdict):
        jobs = jobs_of(results, verdict, arm)
        rows.append((arm, *(measure(jobs) for measure in columns.values())))
    return Table(title, ("arm", *columns), rows, note)


def _plain(metric: str, form: str) -> Measure:
    return lambda jobs: number(mean(values_of(jobs, metric)), form)


def _own(metric: str, form: str) -> Measure:
    return lambda jobs: number(mean(spent_by(jobs, metric)), form)


def _metric_names(results: Sequence[JobResult], verdict: CellVerdict) -> list[str]:
    return sorted({name for r in results if r.cell == verdict.cell for name in r.metrics})


def _edit_kinds(results: Sequence[JobResult], verdict: CellVerdict) -> str:
    kinds = [n for n in _metric_names(results, verdict) if n.startswith("edits/")]
    parts = []
    for arm in arms_of(results, verdict):
        jobs = jobs_of(results, verdict, arm)
        means = {name: mean(values_of(jobs, name)) for name in kinds}
        made = [f"{n.removeprefix('edits/')} {number(m, '.1f')}" for n, m in means.items() if m]
        if made:
            parts.append(f"{arm} {', '.join(made)}")
    return "; ".join(parts)


def _events(jobs: Sequence[JobResult]) -> list[JobResult]:
    return [job for job in jobs if job.value("recovered") is not None]


def _recovered_after(jobs: Sequence[JobResult]) -> list[float]:
    return values_of((job for job in jobs if job.value("recovered")), "recovery_steps")


def _recovery_steps(jobs: Sequence[JobResult]) -> str:
    known = _recovered_after(jobs)
    censored = len(_events(jobs)) - len(known)
    if not known and not censored:
        return MISSING
    middle = median([*known, *[math.inf] * censored])
    return number(middle, ",.4g") if middle < math.inf else "not within the run"


def _censored(jobs: Sequence[JobResult]) -> str:
    n = len(_events(jobs))
    return f"{n - len(_recovered_after(jobs))} of {n}" if n else MISSING
