"""The lifecycle in a run's summary: counts of its edits, and a table of its decisions."""

from __future__ import annotations

from typing import Any

from chronorun.lifecycle import LifecycleCoordinator
from chronorun.lifecycle.record.telling import ACTIONS

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


def lifecycle_summary(coordinator: LifecycleCoordinator | None) -> dict[str, Any]:
    """Return the part of summary.json with the edits by action and the number of evaluations."""
    counts = {} if coordinator is None else coordinator.counts
    found: dict[str, Any] = {"lifecycle": {action: counts.get(action, 0) for action in ACTIONS}}
    if coordinator is not None:
        found["lifecycle_evaluations"] = {
            "checkpoints": coordinator.policy.checkpoint,
            "cycles": coordinator.cycles,
            "proposed": coordinator.policy.next_seq,
            "dry_run": coordinator.config.dry_run,
        }
    return found


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
