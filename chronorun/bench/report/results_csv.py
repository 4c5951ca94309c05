"""Writes ``results.csv``: one row for each job of a bench, for spreadsheets and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from chronorun.analysis.inspect.output import csv_line
from chronorun.bench.evidence.results import JobResult
from chronorun.core.files import write_atomically

FIXED = ("number", "scenario", "variant", "arm", "seed", "status", "reason", "folder")
PRIMARY = "val_loss"
WALL = "wall/"
"""Prefix of wall-clock columns, the only ones that differ between equal runs."""
_FORMULA = ("=", "+", "-", "@")


def write_csv(results: Sequence[JobResult], path: Path) -> None:
    """Write one row per job: its names, its metrics (the primary one first), its wall clock.

    Floats read back exactly; None is an empty field. Text that a spreadsheet would take for a
    formula is preceded by an apostrophe. Raises OSError and then leaves an older file alone.
    """
    write_atomically(path, to_csv(results).encode("utf-8", "backslashreplace"))


def to_csv(results: Sequence[JobResult]) -> str:
    """Return the content of ``results.csv``, rows in the order of the jobs' numbers."""
    metrics = _names(result.metrics for result in results)
    metrics.sort(key=lambda name: (name != PRIMARY, name))
    wall = _names(result.wall for result in results)
    lines = [_line([*FIXED, *metrics, *(WALL + name for name in wall)])]
    for result in sorted(results, key=lambda result: result.number):
        fixed = [getattr(result, name) for name in FIXED]
        figures = [result.metrics.get(name) for name in metrics]
        lines.append(_line([*fixed, *figures, *(result.wall.get(name) for name in wall)]))
    return "".join(lines)


def _names(rows: Iterable[dict[str, float | None]]) -> list[str]:
    return sorted({name for row in rows for name in row})


def _line(cells: list[object]) -> str:
    return csv_line([_no_formula(cell) if isinstance(cell, str) else cell for cell in cells])


def _no_formula(text: str) -> str:
    # Spreadsheets ignore blanks before the sign.
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
