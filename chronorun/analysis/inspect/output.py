"""The output of ``inspect`` for programs: JSON by ``inspect.schema.json``, and CSV.

Rows wait in a temporary file beyond some size, so that memory stays flat, and nothing is printed
of a log that turns out to be damaged.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from chronorun.analysis.inspect.any_log import LogView
from chronorun.analysis.inspect.expert_answers import answers
from chronorun.analysis.inspect.expert_story import Spell, Story
from chronorun.analysis.inspect.sweep import SweepView
from chronorun.analysis.inspect.timeline import action_record
from chronorun.analysis.inspect.view import RunView
from chronorun.analysis.reading.fields import scalars
from chronorun.analysis.reading.records import Decision, Fate, Judgement
from chronorun.analysis.reading.series import Series
from chronorun.core.text import harmless
from chronorun.core.words import finite

SCHEMA_VERSION = 1
CSV_COLUMNS = (
    "run",
    "run_id",
    "seq",
    "step",
    "integrated_step",
    "action",
    "dry_run",
    "layer_id",
    "expert_id",
    "parent_id",
    "partner_id",
    "undoes",
    "reason",
    "evidence",
    "experts_before",
    "experts_after",
    "probe_shock",
    "output_change",
    "predicted_benefit",
    "realised_benefit",
    "harmful",
    "carried_out",
)
FIGURE_COLUMNS = ("step", "name", "value")


def to_json(value: Any) -> str:
    """Return JSON in ASCII, so that no terminal can obey it; NaN becomes null."""
    with contextlib.suppress(UnicodeEncodeError):
        text = msgspec.json.encode(value)
        if text.isascii() and b"\x7f" not in text:
            return text.decode()
    safe = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return safe.replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


class ActionRows:
    """Listed actions as JSON or CSV rows, held back until all logs have been read."""

    def __init__(self, as_csv: bool) -> None:
        self.as_csv = as_csv
        self.count = 0
        self._file: TextIO = io.TextIOWrapper(
            tempfile.SpooledTemporaryFile(max_size=8 << 20),  # noqa: SIM115
            encoding="utf-8",
            newline="",
        )

    def add(self, decision: Decision, judgement: Judgement | None, run: str = "") -> None:
        """Add one action."""
        record = {"run": run} | action_record(decision, judgement)
        if self.as_csv:
            self._file.write(csv_line([record[name] for name in CSV_COLUMNS]))
        else:
            self._file.write(("," if self.count else "") + to_json(record))
        self.count += 1

    def add_figure(self, step: int | None, name: str, value: float) -> None:
        """Add one figure of a log, as a row of CSV."""
        self._file.write(csv_line([step, name, value]))

    def copy_to(self, out: TextIO) -> None:
        """Write all rows."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, out)


def csv_line(cells: list[Any] | tuple[Any, ...]) -> str:
    """Return a row of CSV, control characters written out."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_cell(cell) for cell in cells])
    return buffer.getvalue()


def _cell(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    # Some readers of CSV take these two for the end of a row.
    return harmless(str(cell)).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def print_with_actions(head: Mapping[str, Any], rows: ActionRows, out: TextIO) -> None:
    """Write a JSON object whose ``actions`` are the rows."""
    out.write(to_json(head)[:-1] + ',"actions":[')
    rows.copy_to(out)
    out.write("]}\n")


def run_record(view: RunView) -> dict[str, Any]:
    """Return a run without its actions."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "run",
        "headline": headline_record(view),
        "population": [
            {
                "layer_id": layer_id,
                "start": p.start,
                "end": p.end,
                "points": [[step, n] for step, n in p.points()],
            }
            for layer_id, p in sorted(view.populations.items())
        ],
        "lineage": [expert.to_dict() for expert in view.lineage.experts.values()],
        "why": None if view.story is None else story_record(view.story),
        "notices": list(view.notices.lines),
    }


def story_record(story: Story) -> dict[str, Any]:
    """Return the story of one expert."""
    return {
        "expert_id": story.expert_id,
        "layer_id": story.layer_id,
        "born_step": story.born_step,
        "parent_id": story.parent_id,
        "state": None if story.state is None else story.state[:200],
        "checkpoints": story.checkpoints,
        "states": [
            {"step": t.step, "from": t.before, "to": t.after, "reason": t.reason}
            for t in [*story.states, *story.last_states]
        ],
        "releases": [
            {
                "step": t.step,
                "expert_id": t.expert_id[:200],
                "parent_id": None if t.parent_id is None else t.parent_id[:200],
                "probe_shock": finite(scalars(t.receipt).get("probe_shock")),
                "output_change": finite(scalars(t.receipt).get("output_change")),
            }
            for t in story.releases
        ],
        "lens_deferrals": story.lens_deferrals,
        "share": _range(story.share),
        "even_share": story.even_share,
        "held": {
            name: {
                "longest": held.longest,
                "longest_step": held.longest_step,
                "now": held.now,
                "patience": held.patience,
            }
            for name, held in (
                ("dormancy", story.dormancy),
                ("overload", story.overload),
                ("convergence", story.convergence),
                ("suspicion", story.suspicion),
            )
        },
        "nearest": None if story.nearest is None else dict(vars(story.nearest)),
        "proposals": [_spell(spell) for spell in story.spells],
        "answers": [
            {"action": action, "happened": happened, "text": text}
            for action, happened, text in answers(story)
        ],
    }


def _spell(spell: Spell) -> dict[str, Any]:
    return {name: value for name, value in vars(spell).items() if name != "seq"}


def _range(series: Series) -> dict[str, float] | None:
    if not series.count:
        return None
    s = series
    return {"first": s.first, "last": s.last, "low": s.low, "high": s.high}


def headline_record(view: RunView) -> dict[str, Any]:
    """Return what a run's first lines say."""
    known = view.populations.values()
    return {
        "path": view.path,
        "run_id": view.run_id,
        "status": view.status,
        "steps": view.steps,
        "first_step": view.first_step,
        "last_step": view.last_step,
        "train_loss": view.train_loss,
        "val_loss": view.val_loss,
        "first_val_loss": view.first_val_loss,
        "alerts": view.alerts,
        "experts_start": sum(p.start or 0 for p in known) if known else None,
        "experts_end": sum(p.end or 0 for p in known) if known else None,
        "decisions": view.decisions,
        "listed": view.timeline.listed,
        "counts": _counts(view, "done"),
        "unfinished": _counts(view, "unfinished"),
        "would": _counts(view, "would"),
    }


def _counts(view: RunView, fate: Fate) -> dict[str, int]:
    return {a[:200]: n for (a, found), n in view.timeline.counts.items() if found == fate}


def sweep_record(view: SweepView) -> dict[str, Any]:
    """Return a sweep without its actions."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        "path": view.path,
        "runs": [headline_record(run) for run in view.runs],
        "notices": list(view.notices.lines),
    }


def log_record(view: LogView) -> dict[str, Any]:
    """Return a log that holds no actions."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "log",
        "log": view.kind,
        "path": view.path,
        "lines": view.lines,
        "taken": view.taken,
        "first_step": view.first_step,
        "last_step": view.last_step,
        "run_ids": sorted(view.run_ids),
        "figures": [
            {
                "name": name,
                "count": s.count,
                "first": s.first,
                "last": s.last,
                "low": s.low,
                "high": s.high,
            }
            for name, s in view.series.items()
        ],
        "happened": [{"what": what, "times": times} for what, times in view.labels.most_common()],
        "notices": list(view.notices.lines),
    }
