"""PRUNE: an expert that stayed without tokens, and that the lens could not bring back."""

from __future__ import annotations

from collections.abc import Iterator

from chronorun.lifecycle.decide.actions import Action, Candidate, Refusal, Status
from chronorun.lifecycle.decide.counters import is_recent_attempt
from chronorun.lifecycle.decide.view import LayerView, Proposal

DECIDED_BY = ("prune_patience", "prune_lens_grace", "min_experts_per_layer", "max_prunes_per_cycle")


def propose(view: LayerView) -> Iterator[Proposal]:
    """Yield the experts that have been dormant for ``prune_patience`` checkpoints."""
    if not view.config.prune_enabled:
        return
    patience = view.patience(Action.PRUNE, view.config.prune_patience)
    for expert_id, held in view.layer.counters.dormancy.items():
        if held < patience:
            continue
        metrics = view.metrics(
            Action.PRUNE,
            share=0.0,
            dormancy_duration=held,
            lens_deferrals=view.layer.counters.lens_deferrals.get(expert_id, 0),
        )
        candidate = Candidate(
            Action.PRUNE,
            view.signals.layer_id,
            expert_id,
            "dormant",
            held,
            metrics=metrics,
            decided_by=DECIDED_BY,
        )
        yield candidate, _lens_first(view, expert_id) or view.below_floor()


def _lens_first(view: LayerView, expert_id: str) -> Refusal | None:
    """Let a recent attempt of the lens show its effect, but not for ever.

    One dead expert makes debt, debt makes the lens act, and so 'no recent attempt' alone would
    never come true: after ``prune_lens_grace`` deferrals in one dormancy the attempt has failed.
    """
    counters, grace = view.layer.counters, view.config.prune_lens_grace
    deferrals = counters.lens_deferrals.get(expert_id, 0)
    recent = is_recent_attempt(counters.since_lens.get(expert_id), view.config)
    if recent and deferrals <= grace:
        return Refusal(Status.deferred, f"lens attempt, deferral {deferrals} of {grace}")
    return None
