"""What all pages share: templates, and the rule that text from logs stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from chronorun import __version__
from chronorun.analysis.reading.fields import figure
from chronorun.analysis.report import style, svg

_TEMPLATES = Path(__file__).parent / "templates"


def html(folder: Path, template: str, **content: Any) -> str:
    """Return a page as HTML, from a template of ``folder`` or of those that all pages share.

    Every value is cut, its control characters are written out, its markup is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        finalize=svg.safe,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cut": svg.cut, "draw": svg.draw, "figure": figure}
    environment.globals |= {
        "version": __version__,
        "style": style,
        "sample": svg.sample,
        "swatch": svg.swatch,
        "dot_sample": svg.dot_sample,
    }
    return environment.get_template(template).render(content)
