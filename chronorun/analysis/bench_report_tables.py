"""The tables of a bench's report, as plain text that Markdown and HTML both show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from chronorun.analysis.bench_report_figures import (
    MISSING,
    against,
    arms_of,
    cell_name,
    interval,
    mean,
    mean_edits,
    mean_sd,
    mebibytes,
    number,
    p_value,
    scaled,
    scenario_name,
    shown_baselines,
    values_of,
    without_result,
)
from chronorun.analysis.bench_results import JobResult
from chronorun.analysis.verdicts import CellVerdict, VerdictRules

Values = Callable[[str, str], list[float]]
"""Gives the values of (arm, metric) over the seeds of a cell."""
Measure = tuple[str, Callable[[list[float]], str]]
"""A metric, and how its values over the seeds are shown."""


@dataclass(frozen=True)
class Table:
    """A table of plain texts; the first ``words`` columns and those in ``wide`` are no figures."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    words: int = 1
    wide: tuple[str, ...] = ()

    def is_figure(self, column: int) -> bool:
        """Whether a column holds figures, which end at the right."""
        return column >= self.words and self.columns[column] not in self.wide


def verdict_table(verdicts: Sequence[CellVerdict], results: Sequence[JobResult]) -> Table:
    """Return one row a cell: the verdict, and the lifecycle against the arms it has to beat."""
    baselines = shown_baselines(verdicts)
    rows = [
        (
            cell_name(verdict),
            verdict.verdict,
            *(interval(against(verdict, baseline)) for baseline in baselines),
            number(mean_edits(results, verdict), ".1f"),
            str(verdict.n),
            verdict.reason,
        )
        for verdict in verdicts
    ]
    names = tuple(f"{baseline}, %" for baseline in baselines)
    return Table(
        "Verdicts",
        ("scenario", "verdict", *names, "edits", "seeds", "why"),
        rows,
        "Lifecycle minus baseline in percent of the baseline's loss, with its bootstrap interval; "
        "below 0 favours the lifecycle. Edits: mean over seeds.",
        words=2,
        wide=("why",),
    )


def comparison_table(verdict: CellVerdict) -> Table:
    """Return a cell's comparisons with every baseline."""
    rows = [
        (
            c.baseline,
            str(c.n),
            number(c.mean, "+.5f"),
            interval(c) if c.n else MISSING,
            *(p_value(p) if c.n else MISSING for p in (c.p, c.p_holm, c.tost_p, c.tost_p_holm)),
        )
        for c in verdict.comparisons
    ]
    return Table(
        "Comparisons",
        ("baseline", "seeds", "nats per token", "%", "p", "Holm p", "TOST p", "Holm TOST p"),
        rows,
        "Lifecycle minus baseline, paired by seed. p: exact sign-flip test; Holm over the cells.",
    )


def compute_table(results: Sequence[JobResult], verdict: CellVerdict, rules: VerdictRules) -> Table:
    """Return what each arm of a cell reached, and what it spent."""
    metrics, wall = _metrics(results, verdict), _wall(results, verdict)
    rows = []
    for arm in arms_of(results, verdict):
        losses = metrics(arm, rules.metric)
        rows.append(
            (
                arm,
                _seeds(results, verdict, arm),
                mean_sd(losses),
                scaled(mean(metrics(arm, "active_flops_per_token"))),
                scaled(mean(metrics(arm, "executed_flops"))),
                scaled(mean(metrics(arm, "parameter_steps"))),
                number(mean(metrics(arm, "mean_population")), ".2f"),
                number(mean(metrics(arm, "final_population")), ".2f"),
                mebibytes(mean(wall(arm, "peak_memory_bytes"))),
                number(mean(wall(arm, "seconds")), ",.1f"),
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
        "Executed FLOPs include probes. Experts: per layer. Peak memory and seconds depend on the "
        "machine, and are of trained jobs alone.",
    )  # fmt: skip


def routing_table(results: Sequence[JobResult], verdict: CellVerdict) -> Table:
    """Return the health of routing and what the lifecycle did."""
    columns: dict[str, Measure] = {
        "N_eff": ("n_effective", _plain(".2f")),
        "mean N_eff": ("n_effective_mean", _plain(".2f")),
        "dead-expert steps": ("dead_expert_steps", _plain(".1f")),
        "MaxVio": ("max_vio", _plain(".3f")),
        "mean MaxVio": ("max_vio_mean", _plain(".3f")),
        "dropped": ("dropped_fraction", _plain(".2%")),
        "edits": ("edits", _plain(".1f")),
        "deferrals": ("deferrals", _plain(".1f")),
        "blocked": ("blocked", _plain(".1f")),
        "rollbacks": ("rollbacks", _plain(".1f")),
        "predicted": ("predicted_benefit", _plain("+.5f")),
        "realised": ("realised_benefit", _plain("+.5f")),
    }
    note = (
        "Means over seeds. N_eff and MaxVio: at the end, and over the run. Benefits: in nats of "
        "probe loss, below 0 where edits help."
    )
    if kinds := _edit_kinds(results, verdict):
        note += f" Edits by kind: {kinds}."
    return _arm_table("Routing and edits", columns, results, verdict, note)


def loss_table(results: Sequence[JobResult], verdict: CellVerdict) -> Table:
    """Return further losses of a cell, and the recovery where something happened to the run."""
    names = _metric_names(results, verdict)
    columns: dict[str, Measure] = {
        "area under the loss": ("val_loss_auc", _plain(".4f")),
        "per byte": ("val_loss_per_byte", _plain(".4f")),
    }
    for name in names:
        if name.startswith("val_loss/"):
            columns[name.removeprefix("val_loss/")] = (name, _plain(".4f"))
    note = "Means over seeds; nats per token unless said otherwise."
    recovery = bool([arm for arm in arms_of(results, verdict) if _events(results, verdict, arm)])
    if recovery:
        columns["excess loss"] = ("excess_loss", _plain(".4f"))
        note += (
            " Excess loss: after the event, above the course before it. Recovery: median steps "
            "over all seeds with an event; a seed that did not recover within the run is censored "
            "and counts as longer than all others."
        )
    table = _arm_table("Further losses", columns, results, verdict, note)
    if not recovery:
        return table
    rows = [(*row, *_recovery(results, verdict, row[0])) for row in table.rows]
    columns_shown = (*table.columns, "recovery steps", "censored")
    return Table(table.title, columns_shown, rows, table.note)


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
    columns = ("job", "status", "scenario", "variant", "arm", "seed", "folder", "why")
    return Table("Jobs without a result", columns, rows, words=len(columns)) if rows else None


def _arm_table(
    title: str,
    columns: dict[str, Measure],
    results: Sequence[JobResult],
    verdict: CellVerdict,
    note: str,
) -> Table:
    values = _metrics(results, verdict)
    rows = [
        (arm, *(form(values(arm, metric)) for metric, form in columns.values()))
        for arm in arms_of(results, verdict)
    ]
    return Table(title, ("arm", *columns), rows, note)


def _plain(form: str) -> Callable[[list[float]], str]:
    return lambda values: number(mean(values), form)


def _metrics(results: Sequence[JobResult], verdict: CellVerdict) -> Values:
    return lambda arm, metric: values_of(results, verdict, arm, metric)


def _wall(results: Sequence[JobResult], verdict: CellVerdict) -> Values:
    def values(arm: str, name: str) -> list[float]:
        # A job that was not trained spent nothing that could be measured.
        jobs = [r for r in _jobs(results, verdict, arm) if r.status == "completed"]
        found = [job.wall.get(name) for job in jobs]
        return [value for value in found if value is not None]

    return values


def _jobs(results: Sequence[JobResult], verdict: CellVerdict, arm: str) -> list[JobResult]:
    wanted = (verdict.scenario, verdict.variant, arm)
    return [r for r in results if (r.scenario, r.variant, r.arm) == wanted]


def _seeds(results: Sequence[JobResult], verdict: CellVerdict, arm: str) -> str:
    jobs = [r for r in _jobs(results, verdict, arm) if r.has_metrics]
    copied = sum(r.status == "no_edit" for r in jobs)
    return f"{len(jobs)} ({copied} without edit)" if copied else str(len(jobs))


def _metric_names(results: Sequence[JobResult], verdict: CellVerdict) -> list[str]:
    cell = (verdict.scenario, verdict.variant)
    jobs = [r for r in results if (r.scenario, r.variant) == cell]
    return sorted({name for job in jobs for name in job.metrics})


def _edit_kinds(results: Sequence[JobResult], verdict: CellVerdict) -> str:
    kinds = [n for n in _metric_names(results, verdict) if n.startswith("edits/")]
    parts = []
    for arm in arms_of(results, verdict):
        means = {name: mean(values_of(results, verdict, arm, name)) for name in kinds}
        made = [f"{n.removeprefix('edits/')} {number(m, '.1f')}" for n, m in means.items() if m]
        if made:
            parts.append(f"{arm} {', '.join(made)}")
    return "; ".join(parts)


def _events(results: Sequence[JobResult], verdict: CellVerdict, arm: str) -> list[JobResult]:
    jobs = _jobs(results, verdict, arm)
    return [job for job in jobs if job.has_metrics and job.metrics.get("recovered") is not None]


def _recovery(results: Sequence[JobResult], verdict: CellVerdict, arm: str) -> tuple[str, str]:
    jobs = _events(results, verdict, arm)
    if not jobs:
        return MISSING, MISSING
    steps = [job.metrics.get("recovery_steps") for job in jobs if job.metrics["recovered"]]
    known = [value for value in steps if value is not None]
    censored = len(jobs) - len(known)
    middle = median([*known, *[float("inf")] * censored])
    within = number(middle, ",.4g") if middle < float("inf") else "not within the run"
    return within, f"{censored} of {len(jobs)}"
