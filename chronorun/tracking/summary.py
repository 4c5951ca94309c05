"""What a run ends with on the screen: a table, the folder, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def _loss(summary: Mapping[str, Any]) -> str:
    loss, bigram = summary.get("val_loss_per_byte"), summary.get("bigram_loss_per_byte")
    text = f"{_number(loss, '.4f')} nats per byte"
    if isinstance(loss, float) and isinstance(bigram, float):
        side = "below" if loss < bigram else "above"
        text += f"  (bigram {bigram:.4f}: {abs(bigram - loss):.4f} {side})"
    return text


def _population(population: Mapping[str, int]) -> str:
    return "  ".join(f"L{layer}: {count}" for layer, count in population.items())


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the table's rows; what the summary lacks is left out or shown as a dash."""
    parameters = summary.get("parameters", {})
    rows = [
        ("status", f"{summary.get('status', '-')} after {summary.get('steps', 0)} steps"),
        ("validation loss", _loss(summary)),
    ]
    domains = summary.get("val_loss_by_domain") or {}
    if domains:
        text = "  ".join(f"{name} {value:.4f}" for name, value in domains.items())
        rows.append(("by domain", text))
    rows += [
        ("training loss", _number(summary.get("train_loss"), ".4f")),
        (
            "parameters",
            f"{_number(parameters.get('total'), ',')} "
            f"({_number(parameters.get('active'), ',')} active per token)",
        ),
        ("experts", _population(summary.get("population", {}))),
        ("alerts", _number(summary.get("alerts_total"), "d")),
        ("speed", f"{_number(summary.get('tokens_per_second'), ',.0f')} tokens per second"),
        ("time", f"{_number(summary.get('wall_seconds'), '.1f')} s"),
    ]
    return rows


def next_commands(summary: Mapping[str, Any]) -> list[str]:
    """Return commands worth trying after this run."""
    folder = str(summary.get("run_dir", "outputs/run"))
    if summary.get("status") != "completed":
        return [f"chronorun train resume={folder}"]
    return [
        f'chronorun sample {folder} --prompt "def "',
        "chronorun train router=loss_free",
        "chronorun train scenario=collapse scenario.severity=severe",
    ]


def render_summary(summary: Mapping[str, Any]) -> RenderableType:
    """Return the table, the run folder and the next commands, for a Rich console."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in summary_rows(summary):
        table.add_row(Text(name), Text(value))
    table.add_row(Text("folder"), Text(str(summary.get("run_dir", "-"))))
    lines = [Text("next:", style="dim")]
    lines += [Text(f"  {command}", overflow="fold") for command in next_commands(summary)]
    return Group(Text(""), table, Text(""), *lines)
