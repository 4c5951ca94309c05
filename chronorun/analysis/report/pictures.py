"""The pictures of a run: losses, population, shares, control signals, lifelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from chronorun.analysis.reading.fields import figure
from chronorun.analysis.reading.lineage import Life
from chronorun.analysis.report.charts import (
    Cell,
    Letter,
    Line,
    LineChart,
    Mark,
    Row,
    RowChart,
    Scale,
    Segment,
)
from chronorun.analysis.report.edits import Edit
from chronorun.analysis.report.gather import LayerData, RunData
from chronorun.analysis.report.style import SERIES, Look, mark_colour
from chronorun.lifecycle.record.telling import LETTERS, short_name

MOST_ROWS = 48
"""Experts with a row of their own in a picture."""
_LEVELS = 10
"""Depths of colour in a heat map."""
_BLUE, _ORANGE, _GREEN, _ = SERIES
_LIFE = Look("soft", width=2.2)


def steps_of(data: RunData) -> Scale:
    """Return the steps that all pictures share."""
    return Scale(data.first_step, data.last_step)


def losses(data: RunData) -> LineChart | None:
    """Return the losses over steps, with a mark for each action."""
    lines = [
        Line.of("training", data.train_loss, _BLUE._replace(width=1.1)),
        Line.of("validation", data.val_loss, _ORANGE),
    ]
    values = [value for line in lines for value in line.values]
    if not values:
        return None
    y, cut = _loss_scale(values)
    marks = [Mark("scenario", "!", at, f"step {at}: {words}") for at, words in data.scenario]
    marks += _edit_marks(data.edits)
    label = f"Losses over steps, with {len(data.edits)} actions marked"
    unit, caption = "loss (nats/token)", ""
    chart = LineChart(label, unit, steps_of(data), y, 230, lines, marks, cut)
    if marks:
        caption = f"Marks: {chart.letters()}; a number counts actions that lie close together."
    return replace(chart, caption=caption)


def _loss_scale(values: list[float]) -> tuple[Scale, bool]:
    """Return a scale that the first steps, with their high losses, do not press flat."""
    low, high = min(values), max(values)
    usual = sorted(values)[int(0.9 * (len(values) - 1))]
    top = min(high, low + 3 * (usual - low)) if usual > low else high
    margin = 0.04 * (top - low) or 0.5
    return Scale(low - margin, top + margin), top < high


def _edit_marks(edits: Sequence[Edit]) -> list[Mark]:
    """Return a mark for each edit, the published actions in their order first."""
    order = {action: rank for rank, action in enumerate(LETTERS)}
    ranked = sorted(edits, key=lambda edit: (order.get(edit.action, len(order)), edit.action))
    return [
        Mark(e.kind.lower(), e.letter, e.at, f"step {e.at}: {e.kind} {e.expert_id}") for e in ranked
    ]


def population(data: RunData) -> LineChart | None:
    """Return the number of experts over time, of each layer."""
    drawn = {i: points for i, layer in data.layers.items() if (points := layer.population())}
    if not drawn:
        return None
    lines = [
        Line(f"layer {i}", points, SERIES[n % len(SERIES)], steps=True)
        for n, (i, points) in enumerate(drawn.items())
    ]
    y = Scale(0.0, 1.08 * max(value for line in lines for value in line.values) or 1.0)
    label = "Live experts of each layer over steps"
    return LineChart(label, "live experts", steps_of(data), y, 150, lines)


def control(data: RunData, layer: LayerData) -> LineChart | None:
    """Return the control signals of a layer."""
    series = (
        ("debt", layer.debt, _ORANGE),
        ("pressure", layer.pressure, _BLUE),
        ("lens scale", layer.lens_scale, _GREEN),
    )
    lines = [line for one in series if (line := Line.of(*one)).points]
    values = [value for line in lines for value in line.values]
    if not values:
        return None
    y = Scale(min(0.0, *values), max(1.0, *values))
    label = f"Topology debt, pressure and lens scale of layer {layer.layer_id} over steps"
    return LineChart(label, "control", steps_of(data), y, 180, lines)


def shares(data: RunData, layer: LayerData) -> RowChart | None:
    """Return experts x checkpoints, deeper where the share is larger, with births and deaths."""
    if not layer.shares.columns:
        return None
    names = layer.rows(MOST_ROWS)
    last = layer.shares.columns[-1].shares()
    known = layer.lives
    lives = [known.get(name, []) for name in names]
    left = len(layer.experts | set(known)) - len(names)
    rows = [
        Row(short_name(name), _life_words(name, found, last.get(name)))
        for name, found in zip(names, lives, strict=True)
    ]
    return RowChart(
        f"Shares of {len(rows)} experts of layer {layer.layer_id} over steps",
        f"layer {layer.layer_id} share",
        steps_of(data),
        rows,
        16.0,
        cells=_cells(layer, {name: row for row, name in enumerate(names)}),
        letters=[letter for row, found in enumerate(lives) for letter in _ends(found, row)],
        caption=f"share of tokens{f'; {left} experts without a row' if left > 0 else ''}",
    )


def _cells(layer: LayerData, rows: dict[str, int]) -> list[Cell]:
    """Return the shares as cells; neighbours of one depth are one cell."""
    found: list[Cell] = []
    latest: dict[int, int] = {}
    for column in layer.shares.columns:
        for expert_id, share in column.shares().items():
            row = rows.get(expert_id)
            if row is None:
                continue
            cell = Cell(row, column.since, column.until, depth(share))
            before = found[latest[row]] if row in latest else None
            if before and (before.until, before.level) == (cell.since, cell.level):
                found[latest[row]] = before._replace(until=cell.until)
            else:
                latest[row] = len(found)
                found.append(cell)
    return found


def depth(share: float) -> int:
    """Return how deep a share is coloured: 0 for none at all, else 1 .. 10, by its root."""
    if share <= 0.0:
        return 0
    return min(_LEVELS, 1 + int(share**0.5 * _LEVELS))


def _ends(lives: Sequence[Life], row: int) -> Iterator[Letter]:
    for life in lives:
        if life.born is not None:
            yield Letter(life.born_by, life.born, row + 0.5, True, mark_colour(life.born_by))
        if life.died is not None:
            yield Letter(life.died_by, life.died, row + 0.5, False, mark_colour(life.died_by))


def _life_words(expert_id: str, lives: Sequence[Life], share: float | None) -> str:
    words = [expert_id]
    for life in lives:
        born = "there from the start" if life.born is None else f"born at step {life.born}"
        words.append(born if life.died is None else f"{born}, gone at step {life.died}")
    if share is not None:
        words.append(f"last share {figure(share, '.3f')}")
    return "; ".join(words)


def lineage(data: RunData, layer: LayerData) -> RowChart:
    """Return lifelines: a child hangs on its parent's line, a merged expert ends on another's."""
    names = layer.family(MOST_ROWS)
    left = len(layer.storied()) - len(names)
    x, at = steps_of(data), {name: row + 0.5 for row, name in enumerate(names)}
    known = layer.lives
    lives = [known.get(name, []) for name in names]
    segments = [
        Segment(
            (x.low if life.born is None else life.born, row + 0.5),
            (x.high if life.died is None else life.died, row + 0.5),
            _LIFE,
        )
        for row, found in enumerate(lives)
        for life in found
    ]
    for edit in layer.edits:
        link = _link(edit)
        if link is not None and link[0] in at and link[1] in at:
            dashes = "4 3" if edit.action == "MERGE" else ""
            look = Look(mark_colour(edit.letter), dashes, 1.5)
            segments.append(Segment((edit.at, at[link[0]]), (edit.at, at[link[1]]), look))
    return RowChart(
        f"Lifelines of {len(names)} experts of layer {layer.layer_id} over steps",
        f"layer {layer.layer_id}",
        x,
        [Row(short_name(name), name) for name in names],
        18.0,
        segments=segments,
        letters=[letter for row, found in enumerate(lives) for letter in _ends(found, row)],
        caption=f"{left} more not drawn" if left > 0 else "",
    )


def _link(edit: Edit) -> tuple[str, str] | None:
    if edit.action == "MERGE" and edit.died:
        return edit.died[0], edit.expert_id
    if edit.born and edit.parent_id is not None and edit.parent_id != edit.born[0]:
        return edit.parent_id, edit.born[0]
    return None
