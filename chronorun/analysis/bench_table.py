"""What a terminal shows at the end of a bench: one line a cell, wins, nulls and losses alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from chronorun.analysis.bench_report_figures import (
    against,
    bracketed,
    counted,
    mean_edits,
    percents,
    scenario_name,
    shown_baselines,
    signed,
    without_result,
)
from chronorun.analysis.bench_results import JobResult
from chronorun.analysis.comparisons import STATIC
from chronorun.analysis.inspect_text import figure, shown
from chronorun.analysis.verdicts import CellVerdict

MOST_JOBS = 20
"""Jobs without a result that are named; results.csv names them all."""
_GAP = "  "
_COLOURS = {"HELPS": "bold green", "HARMS": "bold red", "NO HARM": "bold", "INCONCLUSIVE": "yellow"}
_TITLE = "validation loss, lifecycle minus baseline, in % of the baseline"
_LEGEND = "below 0 favours the lifecycle; [ ] bootstrap interval; edits: mean over seeds"


def render_table(
    verdicts: Sequence[CellVerdict], results: Sequence[JobResult], width: int
) -> RenderableType:
    """Return verdicts, one line a cell with its reason, and the jobs without a result."""
    parts: list[RenderableType] = []
    if verdicts:
        parts += [Text(_TITLE, style="bold"), *_rows(verdicts, results, width)]
        parts += [Text(""), Text(_LEGEND, style="dim")]
    return Group(*parts, *_jobs(results))


def _rows(
    verdicts: Sequence[CellVerdict], results: Sequence[JobResult], width: int
) -> Iterator[RenderableType]:
    baselines = shown_baselines(verdicts)
    variants = [shown(verdict.variant, 60) for verdict in verdicts]
    reasons = [shown(verdict.reason, 400) for verdict in verdicts]
    rows = [_cells(verdict, results, baselines) for verdict in verdicts]
    rows.insert(0, ["scenario", *baselines, "edits", "verdict"])
    beside = [_beside(row, v) for row, v in zip(rows, ["variant", *variants], strict=True)]
    if any(variants) and sum(_widths(beside)) + len(_GAP) * len(beside[0]) <= width:
        rows, variants = beside, [""] * len(variants)
    below = [": ".join(filter(None, pair)) for pair in zip(variants, reasons, strict=True)]
    lines = [_line(row, _widths(rows), names=2 if rows is beside else 1) for row in rows]
    fits = all(
        line.cell_len + len(_GAP) + cell_len(text) <= width
        for line, text in zip(lines[1:], below, strict=True)
    )
    lines[0].stylize("dim")
    yield lines[0]
    for line, text, verdict in zip(lines[1:], below, verdicts, strict=True):
        _colour(line, verdict)
        yield line.append(f"{_GAP}{text}") if text and fits else line
        if text and not fits:
            yield Padding(Text(text, overflow="fold"), (0, 0, 0, 2), expand=False)


def _beside(row: list[str], variant: str) -> list[str]:
    return [row[0], variant, *row[1:]]


def _cells(
    verdict: CellVerdict, results: Sequence[JobResult], baselines: Sequence[str]
) -> list[str]:
    cells = [shown(scenario_name(verdict.scenario), 30)]
    for baseline in baselines:
        comparison = against(verdict, baseline)
        if baseline == STATIC or comparison is None:
            cells.append(bracketed(comparison))
        else:
            cells.append(signed(percents(comparison)[0], minus="-"))
    return [*cells, figure(mean_edits(results, verdict), ".1f"), shown(verdict.verdict, 20)]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _line(row: Sequence[str], widths: Sequence[int], names: int) -> Text:
    cells = []
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        blanks = " " * (width - cell_len(cell))
        # Names and words begin at the left, figures end at the right.
        is_word = i < names or i == len(row) - 1
        cells.append(cell + blanks if is_word else blanks + cell)
    return Text(_GAP.join(cells), no_wrap=True, overflow="ignore")


def _colour(line: Text, verdict: CellVerdict) -> None:
    start = line.plain.rstrip().rfind(verdict.verdict)
    if start >= 0:
        line.stylize(_COLOURS.get(verdict.verdict, ""), start, start + len(verdict.verdict))


def _jobs(results: Sequence[JobResult]) -> Iterator[RenderableType]:
    found = without_result(results)
    yield Text("")
    yield Text(counted(found, len(results)))
    for result, what, reason in found[:MOST_JOBS]:
        where = shown(result.folder, 200) or shown(_who(result), 200)
        why = f": {shown(reason, 300)}" if reason else ""
        line = Text(f"{what:<7}  {where}{why}", overflow="fold")
        yield Padding(line, (0, 0, 0, 2), expand=False)
    if len(found) > MOST_JOBS:
        yield Text(f"  ... {len(found) - MOST_JOBS} more in results.csv")


def _who(result: JobResult) -> str:
    variant = f" {result.variant}" if result.variant else ""
    return f"{scenario_name(result.scenario)}{variant} {result.arm} seed {result.seed}"
