"""A bench's report as one HTML page that needs no network, no script and no second file."""

from __future__ import annotations

from collections.abc import Sequence

from chronorun import __version__
from chronorun.analysis.reading.fields import shown
from chronorun.analysis.report.svg import tag
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules
from chronorun.bench.report.curves import Curves, cell_figures
from chronorun.bench.report.document import CellPart, Document
from chronorun.bench.report.dots import dots_figure, overview_figure
from chronorun.bench.report.style import bench_style
from chronorun.bench.report.tables import WHY, Table

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(
    document: Document, verdicts: Sequence[CellVerdict], rules: VerdictRules, curves: Curves
) -> str:
    """Return the report as HTML."""
    parts = [
        _headline(document),
        _verdicts(document, verdicts, rules),
        *(_cell(i, cell, rules, curves) for i, cell in enumerate(document.cells)),
        _jobs(document),
        _setup(document),
        f"<footer>Written by chronorun {shown(__version__)}.</footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>chronorun bench: {shown(document.sweep_id)}</title>"
        f'<link rel="icon" href="data:,"><style>{bench_style()}</style></head>\n'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _headline(document: Document) -> str:
    told = "".join(
        f"<dt>{shown(label)}</dt>"
        + "".join(f"<dd>{shown(sentence, 1000)}</dd>" for sentence in sentences)
        for label, sentences in document.summary
    )
    return (
        f"<h1>Bench {shown(document.sweep_id)}</h1><p>{shown(document.opening, 2000)}</p>"
        f'<dl class="lead">{told}</dl>'
    )


def _verdicts(document: Document, verdicts: Sequence[CellVerdict], rules: VerdictRules) -> str:
    drawn = overview_figure(verdicts, rules)
    card = f'<div class="card">{drawn}</div>' if drawn else ""
    links = [f"#cell-{i}" for i in range(len(document.cells))]
    return f"<section><h2>Verdicts</h2>{card}{_table(document.verdicts, links)}</section>"


def _cell(number: int, cell: CellPart, rules: VerdictRules, curves: Curves) -> str:
    verdict = cell.verdict
    word = shown(verdict.verdict)
    badge = f'<span class="badge {word.split()[0] if word else ""}">{word}</span>'
    tables = "".join(f'<h3 class="after">{shown(t.title)}</h3>{_table(t)}' for t in cell.tables)
    return (
        f'<section id="cell-{number}"><h2>{shown(cell.name)} {badge}</h2>'
        f'<p class="soft">{shown(verdict.reason, 500)}</p>'
        f"{_plots(verdict, rules, curves)}{tables}</section>"
    )


def _plots(verdict: CellVerdict, rules: VerdictRules, curves: Curves) -> str:
    over_steps = cell_figures(curves, verdict.scenario, verdict.variant, rules.confidence)
    found = [dots_figure(verdict), over_steps]
    return "".join(f'<div class="card">{drawn}</div>' for drawn in found if drawn)


def _jobs(document: Document) -> str:
    table = "" if document.jobs is None else _table(document.jobs)
    return f"<section><h2>Jobs</h2><p>{shown(document.jobs_words)}</p>{table}</section>"


def _setup(document: Document) -> str:
    lines = "".join(f"<li>{shown(line, 1000)}</li>" for line in document.reading)
    setup = "".join(
        f"<li>{shown(name)}: {shown(value, 1000)}</li>" for name, value in document.setup
    )
    commands = "\n".join(shown(command, 4000) for command in document.commands)
    code = f"<pre>{commands}</pre>" if commands else ""
    return (
        f"<section><h2>How to read it</h2><ul>{lines}</ul></section>"
        f"<section><h2>How it was made</h2><ul>{setup}</ul>{code}</section>"
    )


def _table(table: Table, links: Sequence[str] = ()) -> str:
    columns = [i for i, name in enumerate(table.columns) if name != WHY]
    head = "".join(
        tag("th", shown(table.columns[i]), scope="col", class_=_kind(table, i)) for i in columns
    )
    rows = []
    for number, row in enumerate(table.rows):
        cells = [shown(cell, 500) for cell in row]
        if links:
            cells[0] = f'<a href="{links[number]}">{cells[0]}</a>'
        beside = "".join(tag("td", cells[i], class_=_kind(table, i)) for i in columns)
        below = [cells[i] for i in range(len(cells)) if i not in columns and cells[i]]
        rows.append(tag("tr", beside, class_="over" if below else "last"))
        # At the left edge of a narrow window, however the table is scrolled.
        rows += [
            f'<tr><td colspan="{len(columns)}"><div class="below">{cell}</div></td></tr>'
            for cell in below
        ]
    note = f'<p class="note">{shown(table.note, 2000)}</p>' if table.note else ""
    return (
        f'<div class="scroll" role="region" aria-label="{shown(table.title)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _kind(table: Table, column: int) -> str:
    if table.is_figure(column):
        return "n"
    return "why" if table.columns[column] == "folder" else "name" if column == 0 else "w"
