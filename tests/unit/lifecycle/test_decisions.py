"""The line of a decision: the published fields under the published names."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from report_runs import SEED_RECORD
from unit.lifecycle.signal_builders import Policy, alike, dead, eager, hogged, starving

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.signals import LayerSignals
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision

OURS = [
    "schema_version", "seq", "integrated_step", "child_ids", "partner_id", "undoes",
    "experts_before", "experts_after", "receipt", "dry_run",
]  # fmt: skip


def decided(signals: LayerSignals, config: LifecycleConfig | None = None) -> LifecycleDecision:
    config = config or eager()
    (verdict,) = Policy(config).feed(signals).executed()
    names = [e.expert_id for e in signals.experts]
    return make_decision(verdict, 700, "run", config, names)


def test_the_published_record_is_read() -> None:
    decision = LifecycleDecision.from_dict(SEED_RECORD)
    written = decision.to_dict()
    assert {k: written[k] for k in SEED_RECORD} == SEED_RECORD
    assert (decision.schema_version, decision.integrated_step, decision.dry_run) == (1, None, False)
    assert (decision.child_ids, decision.receipt) == ([], {})


def test_the_published_fields_come_first_under_their_names() -> None:
    assert list(decided(starving()).to_dict()) == [*SEED_RECORD, *OURS]


def test_a_record_goes_through_json_and_unknown_fields_are_ignored() -> None:
    decision = decided(hogged())
    line = json.loads(json.dumps(decision.to_dict())) | {"of_a_later_version": 1}
    assert LifecycleDecision.from_dict(line) == decision


def test_two_records_share_no_defaults() -> None:
    first, second = (LifecycleDecision.from_dict(SEED_RECORD) for _ in range(2))
    first.child_ids.append("L2_E10")
    first.receipt["x"] = 1
    assert (second.child_ids, second.receipt) == ([], {})
    decision = decided(starving())
    decision.experts_after.append("L0_E99")
    assert decision.experts_before == [f"L0_E{e}" for e in range(4)]


def test_a_spawn_says_what_the_published_example_says() -> None:
    decision = decided(starving(layer_id=2, debt=0.1))
    assert decision.action == "SPAWN"
    assert decision.reason == SEED_RECORD["reason"]
    assert (decision.expert_id, decision.parent_id) == ("L2_E99", "L2_E1")
    assert set(SEED_RECORD["metrics_at_decision"]) <= set(decision.metrics_at_decision)
    assert set(SEED_RECORD["config_snapshot"]) <= set(decision.config_snapshot)
    assert decision.config_snapshot["spawn_init_strategy"] == "clone_and_perturb"


SITUATIONS = {
    "PRUNE": dead(3),
    "MERGE": alike((0, 1)),
    "SPLIT": hogged(),
    "SPAWN": starving(),
}


@pytest.mark.parametrize("action", SITUATIONS)
def test_every_record_says_where_it_was_taken_and_what_it_promised(action: str) -> None:
    decision = decided(SITUATIONS[action])
    assert decision.action == action
    metrics = decision.metrics_at_decision
    assert list(metrics)[:3] == ["layer_entropy", "layer_neff", "topology_debt"]
    assert list(metrics)[-1] == "predicted_benefit"
    assert (metrics["layer_entropy"], metrics["layer_neff"]) == (1.25, 3.5)
    assert metrics["topology_debt"] == 0.5
    assert (decision.step, decision.run_id, decision.integrated_step) == (700, "run", None)


@pytest.mark.parametrize("action", SITUATIONS)
def test_the_snapshot_of_the_configuration_is_plain_and_true(action: str) -> None:
    config = eager(split_share_ratio=1.5, merge_weights="share")
    decision = decided(SITUATIONS[action], config)
    for key, value in decision.config_snapshot.items():
        field = getattr(config, key)
        assert value == getattr(field, "value", field)
    assert json.loads(json.dumps(decision.config_snapshot)) == decision.config_snapshot


def test_the_snapshot_holds_patience_budget_and_population_limit_of_its_action() -> None:
    for action, patience, budget, limit in [
        ("PRUNE", "prune_patience", "max_prunes_per_cycle", "min_experts_per_layer"),
        ("MERGE", "merge_patience", "max_merges_per_cycle", "min_experts_per_layer"),
        ("SPLIT", "split_patience", "max_splits_per_cycle", "max_experts_per_layer"),
        ("SPAWN", "spawn_patience", "max_spawns_per_cycle", "max_experts_per_layer"),
    ]:
        assert {patience, budget, limit} <= set(decided(SITUATIONS[action]).config_snapshot)


def test_births_name_their_children_and_merges_their_partner() -> None:
    assert decided(hogged()).child_ids == ["L0_E99"]
    assert decided(starving()).child_ids == ["L0_E99"]
    assert decided(dead(3)).child_ids == []
    merge = decided(alike((0, 1)))
    assert (merge.expert_id, merge.partner_id, merge.child_ids) == ("L0_E0", "L0_E1", [])


def test_a_rollback_names_what_it_undoes() -> None:
    policy = Policy(eager())
    policy.feed(hogged())
    (verdict,) = policy.judge(0, benefit=0.5).executed()
    decision = make_decision(verdict, 700, "run", policy.config, [])
    assert (decision.action, decision.undoes, decision.seq) == ("ROLLBACK", 0, 1)
    assert decision.config_snapshot == {
        "probation_checkpoints": 5, "harm_tolerance": 0.005, "rollback_enabled": True,
    }  # fmt: skip


def test_a_dry_run_is_marked() -> None:
    assert not decided(hogged()).dry_run
    assert decided(hogged(), eager(dry_run=True)).dry_run


def test_only_what_is_executed_has_a_record() -> None:
    (verdict,) = Policy(eager(max_splits_per_cycle=0)).feed(hogged()).verdicts
    assert verdict.candidate.action is Action.SPLIT
    with pytest.raises(AssertionError):
        make_decision(replace(verdict), 700, "run", eager(), [])
