"""The content of a bench's report as plain text, from which Markdown and HTML are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules
from chronorun.bench.report.figures import cell_name, counted, without_result
from chronorun.bench.report.tables import (
    Table,
    comparison_table,
    compute_table,
    jobs_table,
    loss_table,
    routing_table,
    verdict_table,
)
from chronorun.bench.report.words import (
    opening,
    reading,
    scenarios_listed,
    seeds_listed,
    summary,
)


@dataclass(frozen=True)
class CellPart:
    """One cell's part of the report."""

    name: str
    verdict: CellVerdict
    tables: list[Table]


@dataclass(frozen=True)
class Document:
    """A report; ``setup`` lists machine, versions and seeds as (name, value)."""

    sweep_id: str
    opening: str
    summary: list[tuple[str, list[str]]]
    verdicts: Table
    cells: list[CellPart]
    jobs_words: str
    jobs: Table | None
    reading: list[str]
    setup: list[tuple[str, str]]
    commands: list[str]


def document(
    sweep_id: str,
    verdicts: Sequence[CellVerdict],
    results: Sequence[JobResult],
    rules: VerdictRules,
    commands: Sequence[str],
    environment: Mapping[str, str],
) -> Document:
    """Return the content of a report."""
    ordered = sorted(results, key=lambda result: result.number)
    setup = [("scenarios", scenarios_listed(verdicts)), ("seeds", seeds_listed(ordered))]
    return Document(
        sweep_id=sweep_id,
        opening=opening(verdicts, ordered, rules),
        summary=summary(verdicts, rules),
        verdicts=verdict_table(verdicts, ordered),
        cells=[_cell(verdict, ordered, rules) for verdict in verdicts],
        jobs_words=counted(without_result(ordered, rules.metric), len(ordered)),
        jobs=jobs_table(ordered, rules),
        reading=reading(rules),
        setup=[*setup, *environment.items()],
        commands=list(commands),
    )


def _cell(verdict: CellVerdict, results: Sequence[JobResult], rules: VerdictRules) -> CellPart:
    tables = [
        comparison_table(verdict),
        compute_table(results, verdict, rules),
        routing_table(results, verdict),
        loss_table(results, verdict),
    ]
    return CellPart(cell_name(verdict), verdict, tables)
