"""Prune: dormant for its patience, the lens heard, and never below the floor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.lifecycle.signal_builders import (
    Policy,
    dead,
    done,
    eager,
    healthy,
    told,
    view_of,
    why,
    with_experts as changed,
)

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action, Status
from chronorun.lifecycle.decide.counters import LayerCounters
from chronorun.lifecycle.decide.policy_state import LayerPolicy
from chronorun.lifecycle.decide.prune import propose
from chronorun.lifecycle.experts.states import ExpertState


def pruning(**more: Any) -> LifecycleConfig:
    # The few that are left of a small layer are hogs.
    return eager(split_enabled=False, **more)


def dormant_for(checkpoints: int) -> LayerPolicy:
    return LayerPolicy(counters=LayerCounters(dormancy={"L0_E0": checkpoints}))


@pytest.mark.parametrize(("held", "proposed"), [(9, False), (10, True), (11, True)])
def test_an_expert_is_proposed_once_it_was_dormant_for_the_patience(
    held: int, proposed: bool
) -> None:
    view = view_of(dead(0), LifecycleConfig(), dormant_for(held))
    assert [c.expert_id for c, _ in propose(view)] == ["L0_E0"] * proposed


def test_the_candidate_says_what_decided() -> None:
    ((candidate, limit),) = propose(view_of(dead(0), LifecycleConfig(), dormant_for(12)))
    assert limit is None
    assert (candidate.action, candidate.reason, candidate.held) == (Action.PRUNE, "dormant", 12)
    assert candidate.metrics == {
        "layer_entropy": 1.25,
        "layer_neff": 3.5,
        "topology_debt": 0.5,
        "unresolved_debt": 0.25,
        "token_entropy_ratio": 0.7,
        "num_experts": 4,
        "share": 0.0,
        "dormancy_duration": 12,
        "lens_deferrals": 0,
        "predicted_benefit": 0.0,
    }
    assert candidate.decided_by == (
        "prune_patience", "prune_lens_grace", "min_experts_per_layer", "max_prunes_per_cycle",
    )  # fmt: skip


def test_switched_off_it_proposes_nothing() -> None:
    config = LifecycleConfig(prune_enabled=False)
    assert list(propose(view_of(dead(0), config, dormant_for(99)))) == []


# --- the floor


@pytest.mark.parametrize(
    ("n", "least", "max_top_k", "allowed"),
    [
        (3, 2, 1, True),
        (2, 2, 1, False),
        (3, 2, 3, False),
        (4, 2, 3, True),
        (2, 1, 1, True),
        (4, 4, 1, False),
        (5, 4, 2, True),
    ],
)
def test_floor_is_the_least_population_and_the_largest_top_k_of_the_run(
    n: int, least: int, max_top_k: int, allowed: bool
) -> None:
    policy = Policy(pruning(min_experts_per_layer=least))
    # top_k itself is 1: what counts is the largest that the run will use.
    outcome = policy.feed(dead(0, n=n, max_top_k=max_top_k))
    assert done(outcome) == [("PRUNE", "L0_E0")] * allowed
    if not allowed:
        floor = max(least, max_top_k)
        assert told(outcome) == [("PRUNE", "L0_E0", "blocked")]
        assert why(outcome, Action.PRUNE) == [
            f"{n} groups, floor {floor} (min_experts_per_layer={least}, top_k={max_top_k})"
        ]


def test_the_floor_counts_exclusive_twins_once() -> None:
    twins = {"E2": {"twin_of": "L0_E1"}}
    assert done(Policy(pruning()).feed(changed(dead(0, n=4), **twins))) == [("PRUNE", "L0_E0")]
    assert told(Policy(pruning()).feed(changed(dead(0, n=3), **twins))) == [
        ("PRUNE", "L0_E0", "blocked")
    ]


def test_the_floor_counts_neither_those_that_leave_nor_those_to_be() -> None:
    leaving = changed(dead(0, n=3), E1={"state": ExpertState.pending_prune})
    assert told(Policy(pruning()).feed(leaving)) == [("PRUNE", "L0_E0", "blocked")]
    to_be = dead(0, n=2, pending_spawns=3)
    assert told(Policy(pruning()).feed(to_be)) == [("PRUNE", "L0_E0", "blocked")]


# --- the lens


def test_a_lens_that_never_stops_acting_defers_for_the_grace_and_no_longer() -> None:
    policy = Policy(pruning(prune_patience=4, prune_lens_grace=3))
    policy.feed(dead(0, lens_scale=1.0), times=12)
    assert policy.executed_at()[0] == 4 + 3
    reasons = [w for o in policy.outcomes for w in why(o, Action.PRUNE) if w]
    assert reasons[:3] == [f"lens attempt, deferral {n} of 3" for n in (1, 2, 3)]


def test_the_grace_runs_in_checkpoints_not_in_cycles() -> None:
    policy = Policy(pruning(prune_patience=5, prune_lens_grace=5, lifecycle_eval_interval=5))
    policy.feed(dead(0, lens_scale=1.0), times=20)
    assert policy.executed_at()[0] == 10


def test_a_lens_that_abstains_defers_nothing() -> None:
    policy = Policy(pruning(prune_patience=4, prune_lens_grace=5))
    policy.feed(dead(0), times=5)
    assert policy.executed_at()[0] == 4


def test_the_grace_of_a_dormancy_is_spent_once() -> None:
    policy = Policy(pruning(prune_patience=2, prune_lens_grace=2, min_experts_per_layer=4))
    policy.feed(dead(0, lens_scale=1.0), times=8)
    assert [told(o)[0][2] for o in policy.outcomes if o.verdicts] == [
        *["deferred"] * 2, *["blocked"] * 5,
    ]  # fmt: skip
    policy.feed(healthy())
    policy.feed(dead(0, lens_scale=1.0), times=2)
    assert told(policy.outcomes[-1])[0][2] == "deferred"


# --- budget and ranking


def test_the_budget_is_global_and_the_longest_dormant_goes_first() -> None:
    policy = Policy(pruning(lifecycle_eval_interval=2))
    policy.feed(healthy(layer_id=0), dead(2, layer_id=1))
    outcome = policy.feed(dead(0, layer_id=0), dead(2, layer_id=1))
    assert told(outcome) == [("PRUNE", "L1_E2", "executed"), ("PRUNE", "L0_E0", "deferred")]
    outcome = policy.feed(dead(0, layer_id=0), healthy(3, layer_id=1), times=2)
    assert done(outcome) == [("PRUNE", "L0_E0")]


@pytest.mark.parametrize(("budget", "expected"), [(0, []), (1, [0]), (2, [0, 1]), (9, [0, 1, 2])])
def test_no_cycle_prunes_more_than_its_budget(budget: int, expected: list[int]) -> None:
    policy = Policy(pruning(max_prunes_per_cycle=budget))
    outcome = policy.feed(*(dead(0, layer_id=i) for i in (2, 0, 1)))
    assert done(outcome) == [("PRUNE", f"L{i}_E0") for i in expected]
    late = [v.why for v in outcome.verdicts if v.status is Status.deferred]
    assert late == ["max_prunes_per_cycle reached"] * (3 - len(expected))


def test_ties_go_to_the_lowest_layer_then_the_oldest_id() -> None:
    outcome = Policy(pruning(max_prunes_per_cycle=9)).feed(
        dead(2, 10, n=12, layer_id=1), dead(9, 10, n=12, layer_id=0)
    )
    assert [v.candidate.expert_id for v in outcome.verdicts] == [
        "L0_E9", "L0_E10", "L1_E2", "L1_E10",
    ]  # fmt: skip
    assert done(outcome) == [("PRUNE", "L0_E9"), ("PRUNE", "L1_E2")]


def test_a_blocked_candidate_spends_no_budget() -> None:
    small = dead(0, n=2, layer_id=0)
    outcome = Policy(pruning()).feed(small, dead(1, layer_id=1))
    assert told(outcome) == [("PRUNE", "L0_E0", "blocked"), ("PRUNE", "L1_E1", "executed")]


def test_patience_in_force_is_the_multiplied_one() -> None:
    policy = Policy(pruning(prune_patience=2))
    policy.state.layers[0] = LayerPolicy(multipliers={"PRUNE": 4})
    policy.feed(dead(0), times=8)
    assert policy.executed_at() == [8]


def test_a_recovered_expert_starts_over() -> None:
    policy = Policy(pruning(prune_patience=3))
    policy.feed(dead(0), times=2)
    policy.feed(healthy())
    policy.feed(dead(0), times=2)
    assert policy.executed_at() == []
    policy.feed(replace(dead(0), dispatched=0))
    assert policy.executed_at() == []
    policy.feed(dead(0))
    assert policy.executed_at() == [7]
