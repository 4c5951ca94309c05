"""The report of a run: one HTML file that needs no network, no script and no second file."""

from __future__ import annotations

from pathlib import Path

from chronorun import __version__
from chronorun.analysis.reading.fields import shown
from chronorun.analysis.reading.run import Run
from chronorun.analysis.report.gather import RunData, gather
from chronorun.analysis.report.sections import family, headline, layers, losses, population
from chronorun.analysis.report.style import style
from chronorun.analysis.report.table import decisions
from chronorun.config.pasting import path_word
from chronorun.core.files import write_atomically

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Even where something hostile got through from a log, a browser runs and fetches nothing."""


def write_report(run: Run, path: Path) -> None:
    """Write the run's report as one HTML file. Raises StorageError for a damaged log."""
    # As the logs are read first, a damaged one leaves an older report alone.
    text = render(gather(run), run)
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def render(data: RunData, run: Run) -> str:
    """Return the report as HTML."""
    body = "".join(part(data) for part in (headline, losses, population, layers, family, decisions))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>chronorun: {shown(data.run_id)}</title>"
        f'<link rel="icon" href="data:,"><style>{style()}</style></head>\n'
        f"<body><main>{body}{_footer(run)}</main></body></html>\n"
    )


def _footer(run: Run) -> str:
    notices = "".join(f"<li>{shown(line)}</li>" for line in run.notices.lines)
    listed = f"<ul>{notices}</ul>" if notices else ""
    command = f"chronorun inspect {path_word(run.folder)}"
    return (
        f"<footer>Written by chronorun {__version__} from the logs in {shown(str(run.folder))}. "
        f"Ask further: <code>{shown(command)}</code>{listed}</footer>"
    )
