"""Do no harm: an edit is judged against the same weights without it, and undone if that is better.

A loss before and after over training steps would only measure training.
"""

from __future__ import annotations

from dataclasses import dataclass

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import SHRINKS, Action, Candidate, Refusal, Status
from chronorun.lifecycle.decide.policy_state import LayerPolicy, PolicyState, Probation
from chronorun.lifecycle.decide.signals import LayerSignals, ProbationReading
from chronorun.lifecycle.decide.view import LayerView

DECIDED_BY = ("probation_checkpoints", "harm_tolerance", "rollback_enabled")


@dataclass(frozen=True)
class Judgement:
    """What the probe says of an edit; ``rollback`` and ``refusal`` only where it did harm."""

    probation: Probation
    realised_benefit: float
    harmful: bool
    rollback: Candidate | None = None
    refusal: Refusal | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the judgement as a part of a line of ``lifecycle_evaluations.jsonl``."""
        return {
            "seq": self.probation.seq,
            "action": str(self.probation.action),
            "realised_benefit": self.realised_benefit,
            "harmful": self.harmful,
        }


def is_harm(reading: ProbationReading, config: LifecycleConfig) -> bool:
    """Return whether the probe loss lies above that with the edit undone by the tolerance."""
    return reading.realised_benefit > config.harm_tolerance * abs(reading.undone_loss)


def judge(view: LayerView, probation: Probation, reading: ProbationReading) -> Judgement:
    """Judge one edit at the end of its probation."""
    if not is_harm(reading, view.config):
        return Judgement(probation, reading.realised_benefit, harmful=False)
    candidate = Candidate(
        Action.ROLLBACK,
        view.signals.layer_id,
        probation.experts[0],
        "harm",
        view.config.probation_checkpoints,
        undoes=probation.seq,
        metrics=view.metrics(
            Action.ROLLBACK,
            undone_action=str(probation.action),
            probe_loss=reading.probe_loss,
            undone_loss=reading.undone_loss,
            restored_loss=reading.restored_loss,
            realised_benefit=reading.realised_benefit,
        ),
        decided_by=DECIDED_BY,
    )
    refusal = _declined(reading, view.config) or _limit(view, probation)
    return Judgement(probation, reading.realised_benefit, True, candidate, refusal)


def _limit(view: LayerView, probation: Probation) -> Refusal | None:
    """Hold an undone edit, too, to the cap and the floor: others may have come since."""
    if probation.action in SHRINKS:
        return view.above_cap()
    born = view.signals.expert(probation.experts[0])
    # Not there yet, or the second of a pair that is one group: the groups stay as many.
    return None if born is None or born.twin_of is not None else view.below_floor()


def _declined(reading: ProbationReading, config: LifecycleConfig) -> Refusal | None:
    if not config.rollback_enabled:
        return Refusal(Status.declined, "rollback_enabled=False")
    restored = reading.restored_loss
    if restored is None:
        return Refusal(Status.declined, "nothing saved to go back to")
    if restored >= reading.probe_loss:
        return Refusal(Status.declined, "rollback_declined: going back would not lower the loss")
    return None


def learn(
    state: PolicyState, layer: LayerPolicy, judgement: Judgement, config: LifecycleConfig
) -> None:
    """Remember the outcome: harm doubles that action's patience in the layer until one helps."""
    action = judgement.probation.action
    state.learn(action, judgement.realised_benefit)
    if judgement.harmful:
        doubled = 2 * layer.multipliers.get(action, 1)
        layer.multipliers[action.value] = min(doubled, config.max_patience_multiplier)
    elif judgement.realised_benefit < 0.0:
        layer.multipliers.pop(action, None)


def reading_of(signals: LayerSignals, seq: int) -> ProbationReading | None:
    """Return what the probe said of an edit at this checkpoint, if it was asked."""
    return next((r for r in signals.probations if r.seq == seq), None)
