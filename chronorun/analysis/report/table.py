"""The report's table of decisions: why, what the probe felt, what was promised and what came."""

from __future__ import annotations

from chronorun.analysis.reading.fields import figure, shown
from chronorun.analysis.report.edits import Edit
from chronorun.analysis.report.gather import RunData
from chronorun.analysis.report.sections import letter_badge
from chronorun.analysis.report.svg import tag
from chronorun.lifecycle.record.telling import NOT_CARRIED_OUT, who

MOST_ROWS = 400
"""Rows of the table: the first half and the last half of them, in a longer run."""
_HEAD = (
    ("step", "n", "When it was decided; shapes may change a little later"),
    ("action", "", ""),
    ("expert", "", ""),
    ("why", "", "The reason, and the figures that decided"),
    ("experts", "n", "Live experts of the layer before and after"),
    ("probe shock", "n", "Probe loss after the edit over that before, minus 1"),
    ("output change", "n", "Relative RMS change of the layer's output on the probe"),
    ("predicted", "n", "Predicted benefit in nats; below zero helps"),
    ("realised", "n", "Realised benefit in nats at the end of the probation; below zero helps"),
    ("outcome", "", ""),
)


def decisions(data: RunData) -> str:
    """Return all decisions with their receipts."""
    if not data.edits:
        return ""
    undone = {
        edit.undoes: edit for edit in data.edits if edit.undoes is not None and not edit.unfinished
    }
    rows = [_row(data, edit, undone) for edit in data.edits]
    total = sum(data.counts.values())
    if total > MOST_ROWS:
        half = MOST_ROWS // 2
        gap = f'<tr><td colspan="{len(_HEAD)}">… {total - MOST_ROWS} more in the log …</td></tr>'
        rows = [*rows[:half], gap, *rows[-half:]]
    head = "".join(_cell("th", name, kind, words) for name, kind, words in _HEAD)
    return (
        '<section><h2 id="decisions">Decisions</h2><p class="soft">Shock: the probe loss after '
        "the edit over that before, minus 1. Benefits are in nats of probe loss, below zero "
        "where the edit helps: predicted when it was decided, realised at the end of its "
        "probation against the same weights with the edit undone.</p>"
        '<div class="scroll" role="region" aria-labelledby="decisions" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "</div></section>"
    )


def _row(data: RunData, edit: Edit, undone: dict[int, Edit]) -> str:
    judgement = data.judgements.get(edit.seq) if edit.seq is not None else None
    why = shown(edit.reason.replace("_", " "))
    if edit.evidence:
        why += f'<br><span class="soft">{shown(edit.evidence, 160)}</span>'
    outcome = ""
    if judgement is not None:
        outcome = "harm" if judgement.harmful else "kept"
    if edit.unfinished:
        outcome = NOT_CARRIED_OUT
    if edit.seq is not None and edit.seq in undone:
        outcome = f"undone at step {undone[edit.seq].at}"
    cells = (
        ("n", figure(edit.step, ",d") if edit.at == edit.step else _steps(edit)),
        ("w", letter_badge(edit)),
        ("w", _who(edit)),
        ("why", why),
        ("n", _experts(edit)),
        ("n", _percent(edit.shock)),
        ("n", figure(edit.output_change, ".3f")),
        ("n", figure(edit.predicted, "+.4f")),
        ("n", figure(None if judgement is None else judgement.realised, "+.4f")),
        ("", outcome),
    )
    return "<tr>" + "".join(_cell("td", cell, kind) for kind, cell in cells) + "</tr>"


def _cell(name: str, content: str, kind: str, title: str = "") -> str:
    attributes = {"scope": "col"} if name == "th" else {}
    attributes |= {"class_": kind} if kind else {}
    return tag(name, content, **(attributes | ({"title": title} if title else {})))


def _steps(edit: Edit) -> str:
    return f"{edit.step:,}<br><span class='soft'>in at {edit.at:,}</span>"


def _who(edit: Edit) -> str:
    names = who(edit.expert_id, edit.parent_id, edit.partner_id)
    return shown(names.replace("->", "→").replace("<-", "←"))


def _experts(edit: Edit) -> str:
    if edit.experts_before is None or edit.experts_after is None:
        return "–"
    return f"{edit.experts_before} → {edit.experts_after}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{figure(100 * value, '+.3f')}%"
