"""The rows of the report's table of decisions: reason, probe shock, predicted and realised."""

from __future__ import annotations

from dataclasses import dataclass

from chronorun.analysis.reading.fields import figure
from chronorun.analysis.report.edits import Edit
from chronorun.analysis.report.gather import RunData
from chronorun.analysis.report.style import mark_colour
from chronorun.lifecycle.record.telling import NOT_CARRIED_OUT, who

MOST_ROWS = 400
"""Rows of the table: the first half and the last half of them, in a longer run."""


@dataclass(frozen=True)
class DecisionRow:
    """A decision with the figures of its receipt in words; ``realised`` by its probation."""

    edit: Edit
    colour: str
    who: str
    experts: str
    shock: str
    realised: float | None
    outcome: str


def decision_rows(data: RunData) -> list[DecisionRow | None]:
    """Return the decisions with their receipts; None stands for those that are left out."""
    undone = {
        edit.undoes: edit for edit in data.edits if edit.undoes is not None and not edit.unfinished
    }
    edits: list[Edit | None] = list(data.edits)
    if sum(data.counts.values()) > MOST_ROWS:
        half = MOST_ROWS // 2
        edits = [*edits[:half], None, *edits[-half:]]
    return [None if edit is None else _row(data, edit, undone) for edit in edits]


def _row(data: RunData, edit: Edit, undone: dict[int, Edit]) -> DecisionRow:
    judgement = data.judgements.get(edit.seq) if edit.seq is not None else None
    outcome = ""
    if judgement is not None:
        outcome = "harm" if judgement.harmful else "kept"
    if edit.unfinished:
        outcome = NOT_CARRIED_OUT
    if edit.seq is not None and edit.seq in undone:
        outcome = f"undone at step {undone[edit.seq].at}"
    known = edit.experts_before is not None and edit.experts_after is not None
    return DecisionRow(
        edit,
        mark_colour(edit.letter),
        _who(edit),
        f"{edit.experts_before} → {edit.experts_after}" if known else "–",
        "–" if edit.shock is None else f"{figure(100 * edit.shock, '+.3f')}%",
        None if judgement is None else judgement.realised,
        outcome,
    )


def _who(edit: Edit) -> str:
    names = who(edit.expert_id, edit.parent_id, edit.partner_id)
    return names.replace("->", "→").replace("<-", "←")
