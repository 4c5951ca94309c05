"""A bench's report as Markdown, in which no name or reason can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chronorun.bench.report.document import CellPart, Document
from chronorun.bench.report.tables import Table
from chronorun.core.words import shown

_MARKUP = re.compile(r"[\\`*\[\]<>|&~@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.")
"""What Markdown may read as markup; an underscore inside a word is none."""
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_OPENS_BLOCK = re.compile(r"^(\d+)([.)])|^([-+=#])")


def to_markdown(document: Document) -> str:
    """Return the report as Markdown; the last line ends in a newline."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield f"# Bench {plain(document.sweep_id)}"
    yield from ("", opened(document.opening), "")
    for label, sentences in document.summary:
        yield f"- **{plain(label)}**"
        yield from (f"  - {opened(sentence, 1000)}" for sentence in sentences)
    yield from _table(document.verdicts, 2)
    for cell in document.cells:
        yield from _cell(cell)
    yield from ("", "## Jobs", "", opened(document.jobs_words))
    if document.jobs is not None:
        yield from _table(document.jobs, 3)
    yield from _setup(document)


def _cell(cell: CellPart) -> Iterator[str]:
    yield from ("", f"## {plain(cell.name)}: {plain(cell.verdict.verdict)}")
    yield from ("", opened(cell.verdict.reason))
    for table in cell.tables:
        yield from _table(table, 3)


def _setup(document: Document) -> Iterator[str]:
    yield from ("", "## How to read it", "")
    yield from (f"- {opened(line, 1000)}" for line in document.reading)
    yield from ("", "## How it was made", "")
    yield from (f"- {opened(name)}: {plain(value, 1000)}" for name, value in document.setup)
    if document.commands:
        yield from ("", *_code(document.commands))


def _table(table: Table, level: int) -> Iterator[str]:
    yield from ("", f"{'#' * level} {table.title}", "")
    yield _row([plain(name) for name in table.columns])
    marks = ["---:" if table.is_figure(i) else "---" for i in range(len(table.columns))]
    yield _row(marks)
    for row in table.rows:
        yield _row([plain(cell, 500) for cell in row])
    if table.note:
        yield from ("", plain(table.note, 2000))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(lines: Sequence[str]) -> Iterator[str]:
    harmless = [shown(line, 4000) for line in lines]
    longest = max((len(run) for run in re.findall("`+", "\n".join(harmless))), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (fence, *harmless, fence)


def plain(text: str, longest: int = 500) -> str:
    """Return a text on one line that Markdown shows as it is."""
    return _MARKUP.sub(_escape, shown(text, longest))


def opened(text: str, longest: int = 500) -> str:
    """Return a text that opens a line, and there no list or heading."""
    return _OPENS_BLOCK.sub(_escape_opening, plain(text, longest))


def _escape(found: re.Match[str]) -> str:
    return _ENTITIES.get(found[0], f"\\{found[0]}")


def _escape_opening(found: re.Match[str]) -> str:
    return f"{found[1]}\\{found[2]}" if found[1] else f"\\{found[3]}"
