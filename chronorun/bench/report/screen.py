"""The tables in the terminal at the end of a bench: arms, verdicts, jobs without a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from chronorun.bench.evidence.comparisons import STATIC, against
from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import CellVerdict
from chronorun.bench.report.figures import (
    MISSING,
    arms_of,
    bracketed,
    cell_name,
    counted,
    jobs_of,
    mean,
    mean_edits,
    measured_by,
    mebibytes,
    number,
    percents,
    scaled,
    scenario_name,
    sd,
    seeds,
    shown_baselines,
    signed,
    spent_by,
    values_of,
    without_result,
)
from chronorun.bench.report.results_csv import PRIMARY
from chronorun.core.words import figure, shown

MOST_JOBS = 20
"""Jobs without a result that are listed; results.csv has them all."""
_GAP = "  "
_COLOURS = {"HELPS": "bold green", "HARMS": "bold red", "NO HARM": "bold", "INCONCLUSIVE": "yellow"}
_ARM_HEAD = ["", "seeds", "loss", "sd", "FLOPs", "params x steps", "MiB", "seconds"]
_ARMS = "validation loss and compute, means over seeds"
_ARM_LEGEND = "FLOPs: executed, probes included; MiB: peak memory"
_TRAINED = "( ) trained, the others had no edit to follow and spent nothing"
_COMPARED = "validation loss, lifecycle minus baseline, in % of the baseline"
_SIDES = "below 0 favours the lifecycle; [ ] bootstrap interval; "
_EDITS = "edits: mean over seeds"


class _Indented:
    """A text wrapped with an indent of two and without trailing blanks."""

    def __init__(self, text: str) -> None:
        self.text = Text(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.wrap(console, options.max_width - 2, overflow="fold"):
            line.rstrip()
            yield Text("  ").append_text(line)


def render_table(
    verdicts: Sequence[CellVerdict], results: Sequence[JobResult], width: int
) -> RenderableType:
    """Return the arms of each cell, its verdict with the reason, and jobs without a result."""
    parts: list[RenderableType] = []
    if verdicts and any(result.has_metrics for result in results):
        parts += [Text(_ARMS, style="bold"), *_arms(verdicts, results), Text("")]
    if verdicts:
        compared = any(c.n for verdict in verdicts for c in verdict.comparisons)
        parts += [Text(_COMPARED if compared else "verdicts", style="bold")]
        parts += [*_rows(verdicts, results, width), Text("")]
        parts += [Text(f"{_SIDES if compared else ''}{_EDITS}", style="dim"), Text("")]
    return Group(*parts, *_jobs(results))


def _arms(
    verdicts: Sequence[CellVerdict], results: Sequence[JobResult]
) -> Iterator[RenderableType]:
    rows = [_ARM_HEAD]
    for verdict in verdicts:
        rows.append([shown(cell_name(verdict), 80)])
        rows += [_arm(arm, jobs_of(results, verdict, arm)) for arm in arms_of(results, verdict)]
    widths = _widths([row for row in rows if len(row) > 1])
    for row in rows:
        line = _line(row, widths[: len(row)], figures=range(1, len(row)))
        line.rstrip()
        line.stylize("dim" if row is _ARM_HEAD else "")
        yield line
    yield Text("")
    yield Text(_ARM_LEGEND, style="dim")
    if any(r.has_metrics and not r.was_trained for r in results):
        yield Text(_TRAINED, style="dim")


def _arm(arm: str, jobs: Sequence[JobResult]) -> list[str]:
    losses = values_of(jobs, PRIMARY)
    cells = [
        f"  {shown(arm, 30)}",
        seeds(jobs, unit=""),
        number(mean(losses), ".4f"),
        number(sd(losses), ".4f"),
        scaled(mean(spent_by(jobs, "executed_flops"))),
        scaled(mean(spent_by(jobs, "parameter_steps"))),
        mebibytes(mean(measured_by(jobs, "peak_memory_bytes"))),
        number(mean(measured_by(jobs, "seconds")), ".1f"),
    ]
    return [cell.replace(MISSING, "-").replace("−", "-") for cell in cells]


def _rows(
    verdicts: Sequence[CellVerdict], results: Sequence[JobResult], width: int
) -> Iterator[RenderableType]:
    baselines = shown_baselines(verdicts)
    variants = [shown(verdict.variant, 60) for verdict in verdicts]
    reasons = [shown(verdict.reason, 400) for verdict in verdicts]
    rows = [_cells(verdict, results, baselines) for verdict in verdicts]
    rows.insert(0, ["scenario", *baselines, "edits", "verdict"])
    wide = [_with_variant(row, v) for row, v in zip(rows, ["variant", *variants], strict=True)]
    if any(variants) and sum(_widths(wide)) + len(_GAP) * len(wide[0]) <= width:
        rows, variants = wide, [""] * len(variants)
    below = [": ".join(filter(None, pair)) for pair in zip(variants, reasons, strict=True)]
    figures = range(2 if rows is wide else 1, len(rows[0]) - 1)
    lines = [_line(row, _widths(rows), figures) for row in rows]
    fits = all(
        line.cell_len + len(_GAP) + cell_len(text) <= width
        for line, text in zip(lines[1:], below, strict=True)
    )
    lines[0].stylize("dim")
    for line, text, verdict in zip(lines[1:], below, verdicts, strict=True):
        _colour(line, verdict)
        if text and fits:
            line.append(f"{_GAP}{text}")
    for line, text in zip(lines, ["", *below], strict=True):
        line.rstrip()
        yield line
        if text and not fits:
            yield _Indented(text)


def _with_variant(row: list[str], variant: str) -> list[str]:
    return [row[0], variant, *row[1:]]


def _cells(
    verdict: CellVerdict, results: Sequence[JobResult], baselines: Sequence[str]
) -> list[str]:
    cells = [shown(scenario_name(verdict.scenario), 30)]
    for baseline in baselines:
        comparison = against(verdict.comparisons, baseline)
        if baseline == STATIC or comparison is None:
            cells.append(bracketed(comparison))
        else:
            cells.append(signed(percents(comparison)[0], minus="-"))
    return [*cells, figure(mean_edits(results, verdict), ".1f"), shown(verdict.verdict, 20)]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _line(row: Sequence[str], widths: Sequence[int], figures: range) -> Text:
    cells = []
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        blanks = " " * (width - cell_len(cell))
        # Names and words begin at the left, figures end at the right.
        cells.append(blanks + cell if i in figures else cell + blanks)
    return Text(_GAP.join(cells), no_wrap=True, overflow="ignore")


def _colour(line: Text, verdict: CellVerdict) -> None:
    start = line.plain.rstrip().rfind(verdict.verdict)
    if start >= 0:
        line.stylize(_COLOURS.get(verdict.verdict, ""), start, start + len(verdict.verdict))


def _jobs(results: Sequence[JobResult]) -> Iterator[RenderableType]:
    found = without_result(results)
    yield Text(counted(found, len(results)))
    for result, what, reason in found[:MOST_JOBS]:
        where = shown(result.folder, 200) or shown(_who(result), 200)
        why = f": {shown(reason, 300)}" if reason else ""
        yield _Indented(f"{what:<7}  {where}{why}")
    if len(found) > MOST_JOBS:
        yield Text(f"  ... {len(found) - MOST_JOBS} more in results.csv")


def _who(result: JobResult) -> str:
    variant = f" {result.variant}" if result.variant else ""
    return f"{scenario_name(result.scenario)}{variant} {result.arm} seed {result.seed}"
