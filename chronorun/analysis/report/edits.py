"""The edits of a run as a report shows them."""

from __future__ import annotations

from dataclasses import dataclass

from chronorun.analysis.reading.fields import number, scalars
from chronorun.analysis.reading.records import Decision, Fate
from chronorun.lifecycle.record.telling import LETTERS, evidence

UNFINISHED = " (not carried out)"


@dataclass(frozen=True, slots=True)
class Edit:
    """One decision; ``born`` and ``died`` name the experts that it brought and took.

    ``at`` is the step at which the shapes changed, ``shock`` the probe loss after the edit over
    that before, minus 1; ``predicted`` is in nats of probe loss, below zero where the edit helps.
    """

    step: int
    at: int
    action: str
    layer_id: int | None
    expert_id: str
    parent_id: str | None
    partner_id: str | None
    reason: str
    evidence: str
    born: tuple[str, ...]
    died: tuple[str, ...]
    experts_before: int | None
    experts_after: int | None
    seq: int | None
    undoes: int | None
    fate: Fate
    shock: float | None
    output_change: float | None
    predicted: float | None

    @classmethod
    def of(cls, decision: Decision) -> Edit:
        """Return what is shown of a decision."""
        d = decision
        metrics, receipt = scalars(d.metrics_at_decision), scalars(d.receipt)
        born, died = d.came_and_went() if d.fate == "done" else ((), ())
        return cls(
            step=d.step or 0,
            at=d.at,
            action=d.action[:200],
            layer_id=d.layer_id,
            expert_id=d.expert_id[:200] or "?",
            parent_id=_cut(d.parent_id),
            partner_id=_cut(d.partner_id),
            reason=d.reason[:200],
            evidence=evidence(d.action, metrics, scalars(d.config_snapshot), d.undoes),
            born=tuple(name[:200] for name in born),
            died=tuple(name[:200] for name in died),
            experts_before=len(d.before()) or None,
            experts_after=len(d.experts_after) or None,
            seq=d.seq,
            undoes=d.undoes,
            fate=d.fate,
            shock=number(receipt, "probe_shock"),
            output_change=number(receipt, "output_change"),
            predicted=number(metrics, "predicted_benefit"),
        )

    @property
    def dry_run(self) -> bool:
        """Return whether the decision was only proposed."""
        return self.fate == "would"

    @property
    def unfinished(self) -> bool:
        """Return whether the run ended before the decision was carried out."""
        return self.fate == "unfinished"

    @property
    def kind(self) -> str:
        """Return the action's name, marked where it was not carried out."""
        return kind_of(self.action, self.fate)

    @property
    def letter(self) -> str:
        """Return the action's mark."""
        return LETTERS.get(self.action, "?")


def kind_of(action: str, fate: Fate) -> str:
    """Return an action's name, marked where it was not carried out."""
    if fate == "would":
        return f"would {action}"
    return f"{action}{UNFINISHED}" if fate == "unfinished" else action


def _cut(name: str | None) -> str | None:
    return name[:200] if name else None
