"""SPLIT: an expert that carries more of its layer than one expert should."""

from __future__ import annotations

from collections.abc import Iterator

from chronorun.lifecycle.decide.actions import Action, Candidate, Refusal, Status
from chronorun.lifecycle.decide.view import LayerView, Proposal

DECIDED_BY = (
    "split_share_threshold",
    "split_share_ratio",
    "split_pair_ratio",
    "split_patience",
    "split_two_mode",
    "split_two_mode_threshold",
    "split_cooldown_per_expert",
    "max_splits_per_cycle",
    "max_experts_per_layer",
    "split_perturbation_scale",
)


def propose(view: LayerView) -> Iterator[Proposal]:
    """Yield the experts that have been overloaded for ``split_patience`` checkpoints.

    The counter includes the newest window, so the condition is checked at the moment of decision.
    """
    if not view.config.split_enabled:
        return
    patience = view.patience(Action.SPLIT, view.config.split_patience)
    for expert_id, held in view.layer.counters.overload.items():
        if held < patience:
            continue
        expert = view.signals.expert(expert_id)
        assert expert is not None
        metrics = view.metrics(
            Action.SPLIT,
            share=expert.share,
            share_ratio=expert.share * len(view.signals.groups),
            overload_duration=held,
            two_mode_score=expert.two_mode_score,
        )
        candidate = Candidate(
            Action.SPLIT,
            view.signals.layer_id,
            view.signals.next_expert_id,
            "overloaded",
            held,
            parent_id=expert_id,
            metrics=metrics,
            decided_by=DECIDED_BY,
        )
        yield candidate, view.above_cap() or _cooldown(view, expert_id)


def _cooldown(view: LayerView, expert_id: str) -> Refusal | None:
    last = view.state.last_split_step.get(expert_id)
    wait = view.config.split_cooldown_per_expert
    if last is None or view.step - last >= wait:
        return None
    return Refusal(Status.deferred, f"split_cooldown_per_expert={wait}, split at step {last}")
