"""What a run says of its lifecycle: a line per edit, figures for the summary, a table."""

from __future__ import annotations

from typing import Any

from chronorun.lifecycle import Action, LifecycleCoordinator, LifecycleDecision

COLUMNS = (
    "step",
    "action",
    "layer_id",
    "expert_id",
    "parent_id",
    "partner_id",
    "reason",
    "experts",
    "predicted_benefit",
    "probe_shock",
)


def describe(decision: LifecycleDecision) -> str:
    """Return one line for people: ``step 240: SPLIT L0_E3 -> L0_E8: share 0.41 for 3 ...``."""
    d = decision
    who = d.expert_id
    if d.parent_id is not None:
        who = f"{d.parent_id} -> {d.expert_id}"
    elif d.partner_id is not None:
        who = f"{d.expert_id} <- {d.partner_id}"
    elif d.undoes is not None:
        who = f"{d.expert_id} (of decision {d.undoes})"
    step = d.step if d.integrated_step is None else d.integrated_step
    line = f"step {step}: {'would ' if d.dry_run else ''}{d.action} {who}: {evidence(d)}"
    if d.integrated_step is None and not d.dry_run:
        return f"{line}, fading out"
    shock = d.receipt.get("probe_shock")
    if shock is not None:
        shock += d.receipt.get("averaged", {}).get("probe_shock", 0.0)
        line += f", {len(d.experts_after)} experts, probe loss {100 * shock:+.3f}%"
    return line


def evidence(decision: LifecycleDecision) -> str:
    """Return the figures that decided, in words; the reason where they are not known."""
    form = _EVIDENCE.get(decision.action, "")
    try:
        return form.format(**decision.metrics_at_decision) or decision.reason
    except (KeyError, TypeError, ValueError):
        return decision.reason


_EVIDENCE = {
    "SPLIT": "share {share:.2f} for {overload_duration} checkpoints",
    "PRUNE": "no token for {dormancy_duration} checkpoints",
    "MERGE": "cosine {cosine:.2f}, overlap {overlap:.2f} for {convergence_duration} checkpoints",
    "SPAWN": "router {starved_by} for {starvation_duration} checkpoints",
    "REVIVE": "router {starved_by}, its tokens starve (overlap {archive_overlap:.2f})",
    "ROLLBACK": "probe loss {probe_loss:.4f}, without the edit {undone_loss:.4f}",
}


def lifecycle_summary(coordinator: LifecycleCoordinator | None) -> dict[str, Any]:
    """Return the part of summary.json that tells what the lifecycle did and how often it looked."""
    counts = {} if coordinator is None else coordinator.counts
    found: dict[str, Any] = {"lifecycle": {str(a): counts.get(a, 0) for a in _PUBLISHED}}
    if coordinator is not None:
        found["lifecycle_evaluations"] = {
            "checkpoints": coordinator.policy.checkpoint,
            "cycles": coordinator.cycles,
            "proposed": coordinator.policy.next_seq,
            "dry_run": coordinator.config.dry_run,
        }
    return found


_PUBLISHED = (
    Action.SPAWN,
    Action.PRUNE,
    Action.SPLIT,
    Action.MERGE,
    Action.REVIVE,
    Action.ROLLBACK,
)


def decision_rows(coordinator: LifecycleCoordinator) -> list[list[Any]]:
    """Return one row per decision, under ``COLUMNS``."""
    return [
        [
            d.step,
            d.action,
            d.layer_id,
            d.expert_id,
            d.parent_id,
            d.partner_id,
            d.reason,
            len(d.experts_after),
            d.metrics_at_decision.get("predicted_benefit"),
            d.receipt.get("probe_shock"),
        ]
        for d in coordinator.decisions
    ]
