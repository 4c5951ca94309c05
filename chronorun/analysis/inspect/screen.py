"""A run, a log or a sweep on a terminal, readable without its colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chronorun.analysis.inspect.any_log import LogView
from chronorun.analysis.inspect.expert_screen import render_story
from chronorun.analysis.inspect.filters import Filters
from chronorun.analysis.inspect.sparkline import spark
from chronorun.analysis.inspect.sweep import SweepView
from chronorun.analysis.inspect.timeline import receipt, what, who, why
from chronorun.analysis.inspect.view import RunView
from chronorun.analysis.reading.records import Decision
from chronorun.analysis.reading.run import Notices
from chronorun.analysis.reading.series import columns
from chronorun.core.words import figure, shown
from chronorun.lifecycle.record.telling import natural

MOST_TREE_LINES = 60
_COLOURS = {
    "PRUNE": "red",
    "MERGE": "magenta",
    "SPLIT": "cyan",
    "SPAWN": "green",
    "REVIVE": "green",
    "ROLLBACK": "yellow",
}


def render_run(view: RunView, filters: Filters, width: int, ascii_only: bool) -> RenderableType:
    """Return a run: headline, actions, population, lineage; or one expert's story."""
    parts: list[RenderableType] = list(headline(view, ascii_only))
    if view.story is not None:
        parts += render_story(view.story, view.judgement, width, ascii_only)
    else:
        parts += _actions(view, filters, width)
        parts += _populations(view, filters, width, ascii_only)
        parts += _tree(view, filters, width, ascii_only)
    return Group(*parts, *notices(view.notices))


def headline(view: RunView, ascii_only: bool) -> Iterator[RenderableType]:
    """Yield the lines that open a run."""
    name = shown(view.run_id, 60) or "(no name)"
    status = "" if view.status is None else f", {shown(view.status, 30)}"
    yield Text(f"run {name}{status}", style="bold")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=10, style="dim")
    table.add_column(overflow="fold")
    for label, value in _head_rows(view, ascii_only):
        table.add_row(Text(label), Text(value))
    yield table


def _head_rows(view: RunView, ascii_only: bool) -> Iterator[tuple[str, str]]:
    yield "source", shown(view.path, 300)
    if view.steps is not None:
        yield "steps", f"{view.steps:,}"
    elif view.last_step is not None:
        yield "steps", f"{view.first_step} to {view.last_step} in the logs"
    if losses := _losses(view):
        yield "loss", losses
    if any(p.start is not None for p in view.populations.values()):
        yield "experts", population_words(view)
    yield "actions", counts_words(view)
    if view.alerts:
        yield "alerts", f"{view.alerts:,}"


def _losses(view: RunView) -> str:
    parts = []
    if view.first_val_loss is not None and view.val_loss is not None:
        parts.append(f"validation {view.first_val_loss:.4f} -> {view.val_loss:.4f}")
    elif view.val_loss is not None:
        parts.append(f"validation {view.val_loss:.4f}")
    if view.train_loss is not None:
        parts.append(f"training {view.train_loss:.4f}")
    return ", ".join(parts) + (" (nats/token)" if parts else "")


def population_words(view: RunView) -> str:
    """Return ``L0 16 -> 10  L1 16``, and the sum over layers."""
    known = sorted(view.populations.items())
    parts = [
        f"L{i} {p.start} -> {p.end}" if p.start != p.end else f"L{i} {p.end}" for i, p in known[:12]
    ]
    if len(known) > 12:
        parts.append(f"... {len(known) - 12} more layers")
    start, end = sum(p.start or 0 for _, p in known), sum(p.end or 0 for _, p in known)
    total = f"{start} -> {end}" if start != end else f"{end}"
    return f"{total} in all  ({', '.join(parts)})" if len(known) > 1 else ", ".join(parts)


def counts_words(view: RunView) -> str:
    """Return how often each action was taken."""
    counts = sorted(
        view.timeline.counts.items(),
        key=lambda item: (item[0][1] == "unfinished", -item[1], item[0]),
    )
    parts = [
        f"{'would ' if fate == 'would' else ''}{shown(action, 20) or '?'} {n}"
        + (" (not carried out)" if fate == "unfinished" else "")
        for (action, fate), n in counts[:12]
    ]
    hidden = view.decisions - view.timeline.listed
    told = "  ".join(parts) or "none"
    return f"{told}  ({hidden} more are filtered out)" if hidden else told


def _actions(view: RunView, filters: Filters, width: int) -> Iterator[RenderableType]:
    yield Text("")
    timeline = view.timeline
    if not timeline.listed:
        yield Text(_nothing_listed(view, filters))
        return
    yield Text("actions", style="bold")
    yield _action_table(view, timeline.head, width)
    if timeline.left_out:
        yield Text(
            f"... {timeline.left_out} more (narrow with --since --until --layer --expert "
            f"--action; --json and --csv list all)"
        )
    if timeline.tail:
        yield _action_table(view, timeline.tail, width)


def _nothing_listed(view: RunView, filters: Filters) -> str:
    told = "no action passes the filters" if view.decisions else "no structural action"
    layers = sorted(view.populations)
    unknown = sorted(filters.layers - set(layers))
    if unknown and layers and not view.layers_left_out:
        told += f"; there is no layer {_listed(unknown)}, only {_span(layers)}"
    known = view.experts()
    strange = sorted(filters.experts - known, key=natural)
    if strange and known and not (view.layers_left_out or view.lineage.left_out):
        here = sorted((name for name in known if _in_layers(name, filters)), key=natural)
        told += f"; there is no expert {_listed(strange)}, only {_span(here or sorted(known))}"
    return told


def _in_layers(expert_id: str, filters: Filters) -> bool:
    return not filters.layers or any(expert_id.startswith(f"L{i}_") for i in filters.layers)


def _listed(values: Sequence[object]) -> str:
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(shown(f"{value}", 40) for value in values[:5]) + more


def _span(values: Sequence[object]) -> str:
    first, last = (shown(f"{value}", 40) for value in (values[0], values[-1]))
    return first if len(values) == 1 else f"{first} to {last}"


def _action_table(view: RunView, decisions: Iterable[Decision], width: int) -> Table:
    wide = width >= 110
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("expert", overflow="fold", max_width=24)
    table.add_column("why" if wide else "why, and what it did", overflow="fold", ratio=3)
    if wide:
        table.add_column("what it did", overflow="fold", ratio=2)
    for decision in decisions:
        reason, done = why(decision), receipt(decision, view.judgement(decision))
        cells = [
            Text(figure(decision.step)),
            Text(what(decision), style=_COLOURS.get(decision.action, "")),
            Text(who(decision)),
        ]
        if wide:
            cells += [Text(reason), Text(done)]
        else:
            cells.append(Text("\n".join(filter(None, [reason, done]))))
        table.add_row(*cells)
    return table


def _populations(
    view: RunView, filters: Filters, width: int, ascii_only: bool
) -> Iterator[RenderableType]:
    shown_layers = {
        i: p for i, p in sorted(view.populations.items()) if filters.takes_layer(i) and p.end
    }
    if not shown_layers or view.last_step is None:
        return
    since = min(0, view.first_step or 0)
    yield Text("")
    yield Text(f"experts per layer, step {since} to {view.last_step}", style="bold")
    wide = max(8, min(60, width - 40))
    for layer_id, p in shown_layers.items():
        values = columns(p.points(), wide, since, view.last_step)
        # Before its first checkpoint a layer has what it began with.
        begun = None if p.start is None else float(p.start)
        filled = [begun if value is None else value for value in values]
        filled[-1] = p.end
        low, high = (f(v for v in filled if v is not None) for f in (min, max))
        span = f"  ({low:.0f} to {high:.0f})" if low != high else ""
        yield _whole(f"  L{layer_id:<3} {p.start:>3} {spark(filled, ascii_only)} {p.end}{span}")
    if view.layers_left_out:
        yield Text("  ... more layers")


def _tree(
    view: RunView, filters: Filters, width: int, ascii_only: bool
) -> Iterator[RenderableType]:
    lineage = view.lineage
    only = lineage.family(filters.experts) if filters.experts else None
    layers = sorted(
        {key[0] for key in only or lineage.experts}, key=lambda i: -1 if i is None else i
    )
    lines = []
    for layer_id in layers:
        if filters.takes_layer(layer_id):
            lines.append(f"layer {'?' if layer_id is None else layer_id}")
            lines += [f"  {line}" for line in lineage.lines(layer_id, only, ascii_only)]
    if not lines:
        return
    yield Text("")
    yield Text("lineage (those that something happened to)", style="bold")
    for line in lines[:MOST_TREE_LINES]:
        yield Text(f"  {line}", overflow="fold")
    if len(lines) > MOST_TREE_LINES:
        yield Text(
            f"  ... {len(lines) - MOST_TREE_LINES} more lines (narrow with --layer --expert)"
        )
    if lineage.left_out:
        yield Text("  ... later experts are not followed: there are too many")


def render_log(view: LogView, width: int, ascii_only: bool) -> RenderableType:
    """Return a log: its kind, the course of its figures, counts of its events."""
    parts: list[RenderableType] = [Text(f"log {view.kind}", style="bold")]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=10, style="dim")
    table.add_column(overflow="fold")
    table.add_row(Text("source"), Text(shown(view.path, 300)))
    hidden = view.lines - view.taken
    filtered = f" ({hidden:,} filtered out)" if hidden else ""
    table.add_row(Text("lines"), Text(f"{view.lines:,}{filtered}"))
    if view.last_step is not None:
        table.add_row(Text("steps"), Text(f"{view.first_step} to {view.last_step}"))
    if view.run_ids:
        runs = ", ".join(shown(name, 60) for name in sorted(view.run_ids))
        table.add_row(Text("run"), Text(runs))
    parts.append(table)
    if view.series:
        parts += [Text(""), _series_table(view, width, ascii_only)]
        if view.left_out:
            parts.append(Text("... more figures"))
    if view.labels:
        parts += [Text(""), _label_table(view)]
    return Group(*parts, *notices(view.notices))


def _series_table(view: LogView, width: int, ascii_only: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("figure", overflow="fold", min_width=12)
    for name in ("first", "last", "low", "high"):
        table.add_column(name, justify="right", no_wrap=True)
    room = min(40, width - 72)
    if room >= 8:
        table.add_column("course", no_wrap=True)
    since, until = view.first_step or 0, view.last_step or view.taken
    for name, series in view.series.items():
        cells = [Text(shown(name, 60))]
        cells += [Text(f"{v:.4g}") for v in (series.first, series.last, series.low, series.high)]
        if room >= 8:
            course = series.columns(room, since, until)
            cells.append(Text(spark(course, ascii_only)))
        table.add_row(*cells)
    return table


def _label_table(view: LogView) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    for label, count in view.labels.most_common(40):
        table.add_row(Text(f"{count}"), Text(label))
    return table


def render_sweep(view: SweepView, width: int) -> RenderableType:
    """Return a sweep: one row per run."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run", overflow="fold", ratio=3)
    table.add_column("status", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("val loss", justify="right", no_wrap=True)
    table.add_column("experts", no_wrap=True)
    table.add_column("actions", overflow="fold", ratio=2)
    for run in view.runs:
        start = sum(p.start or 0 for p in run.populations.values())
        end = sum(p.end or 0 for p in run.populations.values())
        steps = run.steps if run.steps is not None else run.last_step
        table.add_row(
            Text(shown(run.path, 120)),
            Text(shown(run.status or "-", 12)),
            Text(figure(steps)),
            Text("-" if run.val_loss is None else f"{run.val_loss:.4f}"),
            Text(f"{start} -> {end}" if start != end else f"{end or '-'}"),
            Text(counts_words(run)),
        )
    head = Text(f"{len(view.runs)} runs in {shown(view.path, 300)}", style="bold")
    return Group(head, table, *notices(view.notices))


def notices(found: Notices) -> Iterator[RenderableType]:
    """Yield the notices of a reader."""
    if found.lines:
        yield Text("")
    for line in found.lines:
        yield Text(f"note: {shown(line, 400)}", style="yellow")


def _whole(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ignore")
