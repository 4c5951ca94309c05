"""The report of a run: one HTML file that needs no network, no script and no second file."""

from __future__ import annotations

from pathlib import Path

from chronorun.analysis.reading.run import Run
from chronorun.analysis.report import pictures, sections
from chronorun.analysis.report.gather import MOST_LAYERS, RunData, gather
from chronorun.analysis.report.skeleton import html
from chronorun.analysis.report.table import MOST_ROWS, decision_rows
from chronorun.config.pasting import path_word
from chronorun.core.files import write_atomically

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Run, path: Path) -> None:
    """Write the run's report as one HTML file. Raises StorageError for a damaged log."""
    # As the logs are read first, a damaged one leaves an older report alone.
    text = render(gather(run), run)
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def render(data: RunData, run: Run) -> str:
    """Return the report as HTML."""
    return html(
        _TEMPLATES,
        "run.html",
        run_id=data.run_id,
        status=sections.status(data),
        happened=sections.what_happened(data),
        ran=sections.what_ran(data),
        tiles=sections.tiles(data),
        losses=pictures.losses(data),
        population=pictures.population(data),
        layers=sections.layers(data),
        layers_seen=data.layers_seen,
        most_layers=MOST_LAYERS,
        families=sections.families(data),
        stories=sections.stories(data.edits),
        most_stories=sections.MOST_STORIES,
        decisions=decision_rows(data),
        decisions_left=max(0, sum(data.counts.values()) - MOST_ROWS),
        logs=run.folder,
        command=f"chronorun inspect {path_word(run.folder)}",
        notices=run.notices.lines,
    )
