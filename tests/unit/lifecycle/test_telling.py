"""The wording of an edit: one line, its experts, the figures that decided."""

from __future__ import annotations

import pytest

from chronorun.lifecycle import LifecycleDecision
from chronorun.lifecycle.record.telling import describe, evidence, natural, short_name, who


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
                config_snapshot={"split_share_threshold": 0.25, "split_patience": 3},
                receipt={"probe_shock": -0.00012},
                experts_after=["a", "b"],
            ),
            "step 240: SPLIT L0_E3 -> L0_E8: share 0.412 > 0.25 for 3 checkpoints "
            "(patience 3), 2 experts, probe loss -0.012%",
        ),
        (
            decision(
                "MERGE",
                partner_id="L0_E2",
                metrics_at_decision={"cosine": 0.971, "overlap": 0.9, "convergence_duration": 8},
                config_snapshot={
                    "merge_similarity_threshold": 0.95,
                    "merge_overlap_threshold": 0.8,
                    "merge_patience": 8,
                },
            ),
            "step 240: MERGE L0_E8 <- L0_E2: cosine 0.971 > 0.95, overlap 0.9 > 0.8 "
            "for 8 checkpoints (patience 8), fading out",
        ),
        (
            decision(
                "ROLLBACK",
                undoes=4,
                integrated_step=240,
                metrics_at_decision={"probe_loss": 2.5, "undone_loss": 2.25},
            ),
            "step 240: ROLLBACK L0_E8: probe loss 2.5 with the edit, 2.25 without it "
            "(undoes decision 4)",
        ),
        (decision("PRUNE", dry_run=True), "step 240: would PRUNE L0_E8: why"),
    ],
)
def test_a_line_names_who_and_why(one: LifecycleDecision, line: str) -> None:
    assert describe(one) == line


def test_a_record_without_the_usual_figures_lists_those_it_has() -> None:
    assert evidence("PRUNE", {"gain": 0.25, "dormancy_duration": 9}, {"prune_patience": 9}) == (
        "no token for 9 checkpoints (patience 9)"
    )
    assert evidence("PRUNE", {"gain": 0.25, "dormancy_duration": 9}, {}) == (
        "dormancy_duration 9, gain 0.25"
    )
    assert evidence("OTHER", {}, {}) == ""


def test_a_name_that_a_terminal_would_obey_is_written_out() -> None:
    assert who("\x1b", None, "b") == "\\x1b <- b"


def test_experts_are_sorted_by_their_numbers() -> None:
    names = ["L0_E10", "L0_E9", "x", "L10_E1", "9", ""]
    assert sorted(names, key=natural) == ["", "9", "L0_E9", "L0_E10", "L10_E1", "x"]


def test_names_are_short_in_a_layer() -> None:
    assert short_name("L2_E9") == "E9"
    assert short_name("something long") == "someth…"
