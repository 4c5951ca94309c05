"""Plots of a run as a PNG or SVG file, for papers and slides."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from chronorun.analysis.reading.run import Run
from chronorun.analysis.report.charts import Chart, LineChart, RowChart, gathered
from chronorun.analysis.report.gather import LayerData, RunData, gather
from chronorun.analysis.report.pictures import losses, population, shares
from chronorun.analysis.report.style import LIGHT, Look, heat, mark_colour
from chronorun.core.files import write_atomically
from chronorun.core.text import harmless
from chronorun.errors import UserError

ENDINGS = (".png", ".svg")
MOST_LAYERS = 6
"""Layers whose shares are plotted: those with the most edits."""
_APART = 1 / 60
"""How far apart along x the letters of actions stand at least."""


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

    charts = [losses(data), population(data), *(shares(data, one) for one in _drawn(data))]
    drawn = [chart for chart in charts if chart is not None]
    heights = [0.4 + chart.height / 110 for chart in drawn]
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
        figure = Figure(figsize=(8.0, sum(heights) + 1.1), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(harmless(_title(data, drawn)), x=0.01, ha="left", size=9)
        if drawn:
            axes = figure.subplots(
                len(drawn), 1, sharex=True, squeeze=False, height_ratios=heights
            )[:, 0]
            for axis, chart in zip(axes, drawn, strict=True):
                axis.set_ylabel(chart.unit)
                _lines(axis, chart) if isinstance(chart, LineChart) else _rows(axis, chart)
            axes[-1].set_xlabel("step")
            axes[0].set_xlim(drawn[0].x.low, drawn[0].x.high)
        out = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": "chronorun"}
        figure.savefig(out, format=form, metadata=metadata)
    return out.getvalue()


def _drawn(data: RunData) -> list[LayerData]:
    known = [layer for layer in data.layers.values() if layer.shares.columns]
    chosen = sorted(known, key=lambda layer: -len(layer.edits))[:MOST_LAYERS]
    return sorted(chosen, key=lambda layer: layer.layer_id)


def _title(data: RunData, charts: list[Chart]) -> str:
    letters = [chart.letters() for chart in charts if isinstance(chart, LineChart)]
    return "    ".join(filter(None, [data.run_id[:80], *letters]))


def _lines(axis: Any, chart: LineChart) -> None:
    axis.set_ylim(chart.y.low, chart.y.high)
    for line in chart.lines:
        dashes, colour = _dashes(line.look), LIGHT[line.look.colour]
        if line.behind:
            axis.plot(*zip(*line.behind, strict=True), color=colour, lw=0.8, alpha=0.25)
        if line.points:
            points = zip(*line.points, strict=True)
            style = "steps-post" if line.steps else "default"
            axis.plot(*points, ls=dashes, color=colour, lw=1.1, ds=style, label=line.name)
    for number, marks in enumerate(reversed(chart.lanes().values())):
        colour = LIGHT[mark_colour(marks[0].letter)]
        for share, letter, _ in gathered(marks, chart.x, _APART):
            step = chart.x.low + share * (chart.x.high - chart.x.low)
            axis.axvline(step, color=colour, lw=0.5, alpha=0.35)
            where = ("data", "axes fraction")
            _letter(axis, letter, (step, 1.0), (0, 6 + 9 * number), where, colour)
    if any(line.points for line in chart.lines):
        axis.legend(frameon=False, ncols=4, loc="best")


def _dashes(look: Look) -> Any:
    # A pixel of a page is 0.75 points.
    return (0, [0.75 * float(length) for length in look.dashes.split()]) if look.dashes else "-"


def _rows(axis: Any, chart: RowChart) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    corners = [
        [(c.since, c.row), (c.until, c.row), (c.until, c.row + 1), (c.since, c.row + 1)]
        for c in chart.cells
    ]
    looks = [heat(cell.level) for cell in chart.cells]
    colours = [to_rgba(LIGHT[colour], opacity) for colour, opacity in looks]
    axis.add_collection(PolyCollection(corners, facecolors=colours, linewidth=0, rasterized=True))
    axis.set_ylim(len(chart.rows), 0)
    step = max(1, len(chart.rows) // 16)
    axis.set_yticks([i + 0.5 for i in range(0, len(chart.rows), step)])
    axis.set_yticklabels([harmless(row.name) for row in chart.rows[::step]], size=6)
    for letter in chart.letters:
        offset = (-5 if letter.is_before else 5, 0)
        place = (letter.x, letter.row)
        _letter(axis, letter.text, place, offset, "data", LIGHT[letter.colour])


def _letter(
    axis: Any,
    text: str,
    place: tuple[float, float],
    offset: tuple[int, int],
    coordinates: Any,
    colour: str,
) -> None:
    """Write a letter next to a place, ``offset`` points away."""
    axis.annotate(
        text,
        place,
        xycoords=coordinates,
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        size=7,
        weight="bold",
        color=colour,
        annotation_clip=False,
    )
