"""The table of rows: on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chronorun.core.files import write_atomically
from performance.rows import Row

HEADER = ("row", "figure", "must", "aim", "verdict")


def number(value: float | None, unit: str) -> str:
    """Write a figure in its unit."""
    if value is None:
        return ""
    if unit == "%":
        return f"{value:.2%}"
    text = (
        f"{value:.4f}" if unit == "nats" else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    )
    return text if unit in ("x", "exponent") else f"{text} {unit}"


def figure(row: Row) -> str:
    """Write a row's figure with its range, or why there is none."""
    if row.value is None:
        return row.status
    text = number(row.value, row.unit)
    if row.least is None or row.largest is None or row.least == row.largest:
        return text
    return f"{text} ({number(row.least, row.unit)} to {number(row.largest, row.unit)})"


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Return the cells of a row under ``HEADER``."""
    sign = ">= " if row.at_least else "<= "
    must, aim = (
        "" if goal is None else f"{sign}{number(goal, row.unit)}" for goal in (row.must, row.aim)
    )
    verdict = "" if row.value is None else row.verdict()
    return row.name, figure(row), must, aim, verdict


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows of one group, aligned, notes below the figures they belong to."""
    table = [cells(row) for row in rows]
    widths = [max(len(line[i]) for line in [*table, HEADER]) for i in range(len(HEADER))]
    lines = []
    for line, row in zip(table, rows, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        lines.append("  " + "  ".join(padded).rstrip())
        if row.note:
            lines.append(f"      {row.remark()}")
    return "\n".join(lines)


def markdown(record: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the page: machine, groups with their load, one table."""
    machine = ", ".join(f"{key}: {value}" for key, value in record["machine"].items())
    lines = ["# Performance", "", machine, ""]
    lines += [f"| {' | '.join((*HEADER, 'note'))} |", "|" + " --- |" * (len(HEADER) + 1)]
    lines += [f"| {' | '.join((*cells(row), row.remark()))} |" for row in rows]
    about = ("date", "command", "tries", "seconds", "load_before", "load_after")
    columns = ("group", *(name.replace("_", " ") for name in about))
    lines += ["", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [
        f"| {name} | {' | '.join(str(group[key]) for key in about)} |"
        for name, group in record["groups"].items()
    ]
    return "\n".join(lines) + "\n"


def earlier(
    stem: Path, machine: Mapping[str, object], quick: bool
) -> tuple[dict[str, dict[str, Any]], list[Row]]:
    """Return groups and rows, as quick ones or not, that this machine has written before."""
    file = stem.with_suffix(".json")
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if record.get("machine") != machine:
        return {}, []
    rows = [Row(**{k: v for k, v in row.items() if k != "verdict"}) for row in record["rows"]]
    groups = {name: about for name, about in record["groups"].items() if about["quick"] == quick}
    return groups, [row for row in rows if row.group in groups]


def merged(rows: Sequence[Row], kept: Sequence[Row], order: Sequence[str]) -> list[Row]:
    """Return new rows and those kept of other groups, in the order of ``order``, none beyond."""
    measured = {row.group for row in rows}
    both = [*rows, *(row for row in kept if row.group not in measured)]
    return [row for group in order for row in both if row.group == group]


def write(stem: Path, record: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write ``<stem>.json`` and ``<stem>.md``."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    whole = dict(record) | {"rows": [asdict(row) | {"verdict": row.verdict()} for row in rows]}
    text = json.dumps(whole, indent=2) + "\n"
    write_atomically(stem.with_suffix(".json"), text.encode())
    write_atomically(stem.with_suffix(".md"), markdown(record, rows).encode())
