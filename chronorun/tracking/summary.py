"""The end of a run on the screen: a table, the folder, and commands to try next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chronorun.config.pasting import path_word, resume_command
from chronorun.core.text import one_line
from chronorun.core.words import finite

LABEL_WIDTH = 17


_DOMAINS_SHOWN = 8


def _number(value: Any, form: str, unit: str = "") -> str | None:
    number = finite(value)
    if number is None:
        return None
    return format(int(number) if form.endswith("d") else number, form) + unit


def _status(summary: Mapping[str, Any]) -> str:
    counts = [
        _number(summary.get("steps"), ",d", " steps"),
        _number(summary.get("tokens"), ",d", " tokens"),
    ]
    return ", ".join([str(summary.get("status", "unknown")), *filter(None, counts)])


def _per_byte(summary: Mapping[str, Any], name: str) -> float | None:
    """Return a loss in nats per byte; the baseline's may have to come from the run's own ratio."""
    direct = finite(summary.get(f"{name}_per_byte"))
    per_token = finite(summary.get(name))
    val, val_per_byte = (finite(summary.get(key)) for key in ("val_loss", "val_loss_per_byte"))
    if direct is not None or per_token is None or not val or not val_per_byte:
        return direct
    return per_token * val_per_byte / val


def _bigram(summary: Mapping[str, Any]) -> str | None:
    loss, bigram = (_per_byte(summary, name) for name in ("val_loss", "bigram_loss"))
    if bigram is None:
        return None
    text = f"{bigram:.4f} nats/byte"
    if loss is None:
        return text
    return f"{text}; this run is {abs(bigram - loss):.4f} {'below' if loss < bigram else 'above'}"


def _mapping(summary: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = summary.get(key)
    return value if isinstance(value, Mapping) else {}


def _parameters(summary: Mapping[str, Any]) -> str | None:
    parameters = _mapping(summary, "parameters")
    counts = [
        _number(parameters.get("total"), ",d"),
        _number(parameters.get("active"), ",d", " active per token"),
    ]
    return ", ".join(filter(None, counts)) or None


def _population(summary: Mapping[str, Any], start: Mapping[str, int]) -> str | None:
    layers = [
        f"L{layer} {start[layer]}->{count}"
        if start.get(layer, count) != count
        else f"L{layer} {count}"
        for layer, count in _mapping(summary, "population").items()
    ]
    return "  ".join(layers) or None


def _lifecycle(summary: Mapping[str, Any]) -> str | None:
    counts = _mapping(summary, "lifecycle")
    done = [f"{action} {count}" for action, count in counts.items() if count]
    if not counts:
        return None
    looked = _mapping(summary, "lifecycle_evaluations")
    if not looked:
        return "  ".join(done) or "no structural change"
    if looked.get("dry_run"):
        done = [f"dry run, {looked.get('proposed', 0)} edits proposed"]
    checkpoints = _number(looked.get("checkpoints"), ",d", " checkpoints")
    return f"{'  '.join(done) or 'no structural change called for'} in {checkpoints}"


def _domains(summary: Mapping[str, Any]) -> str | None:
    losses = _mapping(summary, "val_loss_by_domain").items()
    known = [f"{name} {text}" for name, loss in losses if (text := _number(loss, ".4f"))]
    more = len(known) - _DOMAINS_SHOWN
    if more > 0:
        known[_DOMAINS_SHOWN:] = [f"and {more} more in summary.json"]
    return "  ".join(known) + " (nats/token)" if known else None


def summary_rows(
    summary: Mapping[str, Any], start_population: Mapping[str, int] | None = None
) -> list[tuple[str, str]]:
    """Return the table's rows, label and value; what the summary lacks is left out."""
    rows = [
        ("status", _status(summary)),
        ("validation loss", _number(_per_byte(summary, "val_loss"), ".4f", " nats/byte")),
        ("bigram baseline", _bigram(summary)),
        ("by domain", _domains(summary)),
        ("training loss", _number(summary.get("train_loss"), ".4f", " nats/token")),
        ("parameters", _parameters(summary)),
        ("experts", _population(summary, start_population or {})),
        ("lifecycle", _lifecycle(summary)),
        ("alerts", _number(summary.get("alerts_total"), ",d")),
        ("speed", _number(summary.get("tokens_per_second"), ",.0f", " tokens/s")),
        ("time", _number(summary.get("wall_seconds"), ",.1f", " s")),
    ]
    return [(label, one_line(value)) for label, value in rows if value]


def next_commands(summary: Mapping[str, Any]) -> list[str]:
    """Return commands worth trying after this run; none after a failure."""
    folder = _short_folder(str(summary.get("run_dir", "outputs/run")))
    if summary.get("status") == "interrupted":
        return [resume_command(folder)]
    if summary.get("status") != "completed":
        return []
    return [
        f'chronorun sample {path_word(folder)} --prompt "def "',
        "chronorun train router=loss_free",
        "chronorun train scenario=collapse scenario.severity=severe",
    ]


def _short_folder(run_dir: str, longest: int = 40) -> str:
    """Return the link to the newest run in place of a long path that it points at."""
    link = Path(run_dir).parent / "run"
    if len(run_dir) > longest and link.is_symlink() and link.resolve() == Path(run_dir).resolve():
        return str(link)
    return run_dir


def render_summary(
    summary: Mapping[str, Any], start_population: Mapping[str, int] | None = None
) -> RenderableType:
    """Return the table, the run folder and the next commands, for a Rich console.

    Values fold inside their column. The folder and the commands stay whole, to be copied: print
    with ``crop=False``.
    """
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH - 2)
    table.add_column(overflow="fold")
    for label, value in summary_rows(summary, start_population):
        table.add_row(Text(label), Text(value))
    folder = f"{'folder':<{LABEL_WIDTH}}{one_line(str(summary.get('run_dir', '-')))}"
    lines = [_whole(folder)]
    if commands := next_commands(summary):
        lines += [Text(""), Text("next:", style="dim")]
        lines += [_whole(f"  {one_line(command)}") for command in commands]
    return Group(Text(""), table, *lines)


def _whole(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ignore")
