"""Writes a bench's report: ``report.md`` and ``report.html`` with the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules
from chronorun.bench.report.curves import Curves, without_curve
from chronorun.bench.report.document import document
from chronorun.bench.report.markdown import to_markdown
from chronorun.bench.report.page import to_html
from chronorun.core.files import write_atomically


def write_reports(
    sweep_id: str,
    verdicts: Sequence[CellVerdict],
    results: Sequence[JobResult],
    rules: VerdictRules,
    commands: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    curves: Curves,
) -> None:
    """Write ``report.md`` and ``report.html`` into the sweep's folder, each atomically.

    ``environment`` names machine and versions; ``curves`` come from ``read_curves``. Equal inputs
    give equal bytes. Raises OSError, and then leaves the older file alone.
    """
    content = document(sweep_id, verdicts, results, rules, commands, environment)
    page = content
    if missing := without_curve(results, curves):
        words = f"{content.jobs_words.rstrip('.')}. {missing} of them left no curve to draw."
        page = replace(content, jobs_words=words)
    written = {
        "report.md": to_markdown(content),
        "report.html": to_html(page, verdicts, rules, curves),
    }
    for name, text in written.items():
        write_atomically(folder / name, text.encode("utf-8", "backslashreplace"))
