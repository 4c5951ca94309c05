"""A bench's report as one HTML page that needs no network, no script and no second file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chronorun.analysis.report.skeleton import html
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules
from chronorun.bench.report.charts import cell_charts, dots, overview
from chronorun.bench.report.curves import Curves
from chronorun.bench.report.document import Document

TEMPLATES = Path(__file__).parent / "templates"


def to_html(
    document: Document, verdicts: Sequence[CellVerdict], rules: VerdictRules, curves: Curves
) -> str:
    """Return the report as HTML."""
    return html(
        TEMPLATES,
        "bench.html",
        document=document,
        overview=overview(verdicts, rules),
        dots=[dots(verdict) for verdict in verdicts],
        courses=[cell_charts(curves, v.scenario, v.variant, rules.confidence) for v in verdicts],
    )
