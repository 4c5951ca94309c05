"""Plots of a run as a PNG or SVG file, for papers and slides."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chronorun.analysis.reading.run import Run
from chronorun.analysis.report.edits import Edit
from chronorun.analysis.report.gather import LayerData, RunData, gather
from chronorun.core.files import write_atomically
from chronorun.core.text import harmless
from chronorun.errors import UserError
from chronorun.lifecycle.record.telling import LETTERS, short_name

ENDINGS = (".png", ".svg")
MOST_LAYERS = 6
"""Layers whose shares are plotted: those with the most edits."""
MOST_ROWS = 48
_COLOURS = {
    "N": "#11795a",
    "S": "#1d5c9e",
    "P": "#b4540a",
    "M": "#8a3d94",
    "R": "#0b7285",
    "U": "#b3243b",
}
_OTHER = "#5a6673"
_DASHES = ("-", "--", ":", "-.")


def check_ending(path: Path) -> str:
    """Return png or svg. Raises UserError for another ending."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(
            f"plot: {harmless(str(path))} ends in {harmless(path.suffix) or 'nothing'!s}, "
            f"expected {' or '.join(ENDINGS)}; name a file such as run.png"
        )
    return path.suffix.lower()[1:]


def write_plot(run: Run, path: Path) -> None:
    """Write losses with action marks, the population and shares as a .png or .svg file.

    Raises UserError for another ending or a folder that is not there, StorageError for a damaged
    log.
    """
    form = check_ending(path)
    if not path.parent.is_dir():
        raise UserError(
            f"plot: {harmless(str(path.parent))} is no folder, expected one; make it first"
        )
    write_atomically(path, draw(gather(run), form))


def draw(data: RunData, form: str) -> bytes:
    """Return the picture's bytes, the same for the same run."""
    import matplotlib

    # Without pyplot there is no display and no state that outlives the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = _drawn(data)
    heights = [2.6, 1.5, *(0.5 + 0.11 * min(MOST_ROWS, len(x.experts)) for x in layers)]
    # A $ in a run's name is no formula, and an SVG carries no date and no random ids.
    settings: dict[Any, Any] = {
        "font.size": 8,
        "text.parse_math": False,
        "svg.hashsalt": "chronorun",
        "svg.fonttype": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8.0, sum(heights) + 0.9), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[
            :, 0
        ]
        _losses(axes[0], data)
        _population(axes[1], data)
        for axis, layer in zip(axes[2:], layers, strict=True):
            _shares(axis, layer, data)
        axes[-1].set_xlabel("step")
        axes[0].set_xlim(data.first_step, data.last_step)
        out = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": "chronorun"}
        figure.savefig(out, format=form, metadata=metadata)
    return out.getvalue()


def _drawn(data: RunData) -> list[LayerData]:
    known = [layer for layer in data.layers.values() if layer.shares.columns]
    chosen = sorted(known, key=lambda layer: -len(layer.edits))[:MOST_LAYERS]
    return sorted(chosen, key=lambda layer: layer.layer_id)


def _losses(axis: Any, data: RunData) -> None:
    for name, line, colour, dashes in (
        ("training", data.train_loss, "#1d5c9e", "-"),
        ("validation", data.val_loss, "#b4540a", "--"),
    ):
        points, means = line.points(), line.means()
        if means:
            axis.plot(*zip(*points, strict=True), color=colour, lw=0.8, alpha=0.25)
        if points:
            drawn = zip(*(means or points), strict=True)
            axis.plot(*drawn, dashes, color=colour, lw=1.1, label=name)
    edits = [edit for edit in data.edits if not edit.unfinished]
    for edit in edits:
        axis.axvline(edit.at, color=_colour(edit), lw=0.5, alpha=0.35)
    used = [action for action in LETTERS if any(edit.action == action for edit in edits)]
    for lane, action in enumerate(reversed(used)):
        same = [edit for edit in edits if edit.action == action]
        for edit in _apart(same, (data.last_step - data.first_step) / 90):
            place = (edit.at, 1.0)
            _letter(axis, edit, place, (0, 6 + 9 * lane), ("data", "axes fraction"))
    words = ", ".join(f"{LETTERS[action]} {action.lower()}" for action in used)
    title = harmless(f"{data.run_id[:80]}    {words}")
    axis.set_title(title, loc="left", pad=6 + 9 * len(used), size=9)
    axis.set_ylabel("loss (nats/token)")
    if data.train_loss.points() or data.val_loss.points():
        axis.legend(frameon=False, loc="upper right")


def _letter(
    axis: Any, edit: Edit, place: tuple[float, float], offset: tuple[int, int], coordinates: Any
) -> None:
    """Write an action's letter beside a place, ``offset`` points away."""
    axis.annotate(
        edit.letter,
        place,
        xycoords=coordinates,
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        size=7,
        weight="bold",
        color=_colour(edit),
        annotation_clip=False,
    )


def _apart(edits: Sequence[Edit], least: float) -> list[Edit]:
    """Return the edits whose letters do not cover one another."""
    found: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: edit.at):
        if not found or edit.at - found[-1].at >= least:
            found.append(edit)
    return found


def _colour(edit: Edit) -> str:
    return _COLOURS.get(edit.letter, _OTHER)


def _population(axis: Any, data: RunData) -> None:
    for number, layer in enumerate(data.layers.values()):
        points = layer.population()
        if points:
            axis.step(
                *zip(*points, strict=True),
                _DASHES[number % len(_DASHES)],
                where="post",
                lw=1.1,
                label=f"layer {layer.layer_id}",
            )
    axis.set_ylim(bottom=0)
    axis.set_ylabel("live experts")
    if any(layer.population() for layer in data.layers.values()):
        axis.legend(frameon=False, ncols=4, loc="lower left")


def _shares(axis: Any, layer: LayerData, data: RunData) -> None:
    import numpy as np

    rows = layer.rows(MOST_ROWS)
    columns = layer.shares.columns
    edges = [columns[0].since, *(column.until for column in columns)]
    # An expert that does not live in a column leaves its cell empty.
    cells = np.full((len(rows), len(columns)), np.nan)
    for j, column in enumerate(columns):
        shares = column.shares()
        for i, expert_id in enumerate(rows):
            cells[i, j] = shares.get(expert_id, np.nan)
    mesh = axis.pcolormesh(
        np.maximum.accumulate(edges),
        np.arange(len(rows) + 1),
        np.sqrt(cells),
        cmap="Blues",
        vmin=-0.1,
        vmax=1.0,
    )
    mesh.set_rasterized(True)
    axis.invert_yaxis()
    step = max(1, len(rows) // 16)
    axis.set_yticks([i + 0.5 for i in range(0, len(rows), step)])
    axis.set_yticklabels([harmless(short_name(name)) for name in rows[::step]], size=6)
    axis.set_ylabel(f"layer {layer.layer_id} share")
    places = {expert_id: i + 0.5 for i, expert_id in enumerate(rows)}
    for edit in layer.edits:
        for names, offset in ((edit.born, (-5, 0)), (edit.died, (5, 0))):
            for name in (name for name in names if name in places):
                _letter(axis, edit, (edit.at, places[name]), offset, "data")
