"""What a run says of an edit, in a line."""

from __future__ import annotations

import pytest

from chronorun.lifecycle import LifecycleDecision
from chronorun.training.lifecycle_report import describe, lifecycle_summary


def decision(action: str, **changes: object) -> LifecycleDecision:
    values: dict[str, object] = {
        "step": 240,
        "run_id": "r",
        "action": action,
        "layer_id": 0,
        "expert_id": "L0_E8",
        "parent_id": None,
        "reason": "why",
        "metrics_at_decision": {},
        "config_snapshot": {},
    }
    return LifecycleDecision(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            decision(
                "SPLIT",
                parent_id="L0_E3",
                integrated_step=240,
                metrics_at_decision={"share": 0.412, "overload_duration": 3},
                receipt={"probe_shock": -0.00012},
                experts_after=["a", "b"],
            ),
            "step 240: SPLIT L0_E3 -> L0_E8: share 0.41 for 3 checkpoints, 2 experts, "
            "probe loss -0.012%",
        ),
        (
            decision(
                "MERGE",
                partner_id="L0_E2",
                metrics_at_decision={"cosine": 0.971, "overlap": 0.9, "convergence_duration": 8},
            ),
            "step 240: MERGE L0_E8 <- L0_E2: cosine 0.97, overlap 0.90 for 8 checkpoints, "
            "fading out",
        ),
        (
            decision(
                "ROLLBACK",
                undoes=4,
                integrated_step=240,
                metrics_at_decision={"probe_loss": 2.5, "undone_loss": 2.25},
            ),
            "step 240: ROLLBACK L0_E8 (of decision 4): probe loss 2.5000, without the edit 2.2500",
        ),
        (decision("PRUNE", dry_run=True), "step 240: would PRUNE L0_E8: why"),
    ],
)
def test_a_line_names_who_and_why(one: LifecycleDecision, line: str) -> None:
    assert describe(one) == line


def test_without_a_lifecycle_all_counts_are_zero_and_nothing_was_looked_at() -> None:
    assert lifecycle_summary(None) == {
        "lifecycle": dict.fromkeys(("SPAWN", "PRUNE", "SPLIT", "MERGE", "REVIVE", "ROLLBACK"), 0)
    }
