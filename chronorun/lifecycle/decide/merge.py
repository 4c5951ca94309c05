"""MERGE: two experts that have become alike in their weights and in the tokens they get."""

from __future__ import annotations

from collections.abc import Iterator

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action, Candidate, Refusal, Status
from chronorun.lifecycle.decide.counters import expert_order, pair_key
from chronorun.lifecycle.decide.signals import ExpertSignals, PairSignals
from chronorun.lifecycle.decide.view import LayerView, Proposal

DECIDED_BY = (
    "merge_similarity_threshold",
    "merge_overlap_threshold",
    "merge_patience",
    "merge_min_age_steps",
    "min_experts_per_layer",
    "max_merges_per_cycle",
    "merge_weights",
    "merge_logit_offset",
)


def propose(view: LayerView) -> Iterator[Proposal]:
    """Yield the pairs that have been alike for ``merge_patience`` checkpoints.

    The older of the two survives. Experts that grew up apart have cosines far below the threshold:
    what merges by itself are relatives (and copies).
    """
    if not view.config.merge_enabled:
        return
    patience = view.patience(Action.MERGE, view.config.merge_patience)
    for pair in view.signals.pairs:
        held = view.layer.counters.convergence.get(pair_key(pair.first, pair.second), 0)
        if held < patience:
            continue
        first, second = view.signals.expert(pair.first), view.signals.expert(pair.second)
        assert first is not None
        assert second is not None
        yield (
            _candidate(view, pair, first, second, held),
            (_too_young(view, first, second) or view.below_floor()),
        )


def _candidate(
    view: LayerView, pair: PairSignals, first: ExpertSignals, second: ExpertSignals, held: int
) -> Candidate:
    older, younger = sorted((first, second), key=lambda e: (e.born_step, expert_order(e.expert_id)))
    metrics = view.metrics(
        Action.MERGE,
        cosine=pair.cosine,
        overlap=pair.overlap,
        similarity=similarity(pair.cosine, pair.overlap, view.config),
        convergence_duration=held,
        share=older.share,
        partner_share=younger.share,
    )
    return Candidate(
        Action.MERGE,
        view.signals.layer_id,
        older.expert_id,
        "converged",
        held,
        partner_id=younger.expert_id,
        metrics=metrics,
        decided_by=DECIDED_BY,
    )


def _too_young(view: LayerView, first: ExpertSignals, second: ExpertSignals) -> Refusal | None:
    """Keep parent and child apart from a merge until they had time to differ."""
    if first.expert_id != second.parent_id and second.expert_id != first.parent_id:
        return None
    age = view.step - max(first.born_step, second.born_step)
    least = view.config.merge_min_age_steps
    if age >= least:
        return None
    return Refusal(
        Status.deferred, f"parent and child, {age} steps old, merge_min_age_steps={least}"
    )


def similarity(cosine: float, overlap: float, config: LifecycleConfig) -> float:
    """Return ``a * cosine + b * overlap`` with the configured weights a and b."""
    return config.similarity_cosine_weight * cosine + config.similarity_overlap_weight * overlap
