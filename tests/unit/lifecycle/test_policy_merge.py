"""Merge: alike for its patience, old enough where related, the older survives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.lifecycle.signal_builders import (
    Policy,
    alike,
    done,
    eager,
    healthy,
    told,
    view_of,
    why,
    with_experts,
)

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.counters import LayerCounters
from chronorun.lifecycle.decide.merge import propose
from chronorun.lifecycle.decide.policy_state import LayerPolicy
from chronorun.lifecycle.decide.signals import PairSignals


def alike_for(checkpoints: int) -> LayerPolicy:
    return LayerPolicy(counters=LayerCounters(convergence={"L0_E0|L0_E1": checkpoints}))


@pytest.mark.parametrize(("held", "proposed"), [(7, False), (8, True)])
def test_a_pair_is_proposed_once_it_was_alike_for_the_patience(held: int, proposed: bool) -> None:
    found = list(propose(view_of(alike((0, 1)), LifecycleConfig(), alike_for(held))))
    assert len(found) == proposed


def test_the_candidate_says_what_decided() -> None:
    signals = with_experts(alike((0, 1)), E0={"born_step": 9, "share": 0.3}, E1={"share": 0.2})
    ((candidate, limit),) = propose(view_of(signals, LifecycleConfig(), alike_for(8)))
    assert limit is None
    assert (candidate.action, candidate.reason) == (Action.MERGE, "converged")
    assert (candidate.expert_id, candidate.partner_id) == ("L0_E1", "L0_E0")
    assert candidate.metrics == {
        "layer_entropy": 1.25,
        "layer_neff": 3.5,
        "topology_debt": 0.5,
        "unresolved_debt": 0.25,
        "token_entropy_ratio": 0.7,
        "num_experts": 4,
        "cosine": 0.96,
        "overlap": 0.9,
        "similarity": pytest.approx(0.93),
        "convergence_duration": 8,
        "share": 0.2,
        "partner_share": 0.3,
        "predicted_benefit": 0.0,
    }
    assert candidate.decided_by == (
        "merge_similarity_threshold", "merge_overlap_threshold", "merge_patience",
        "merge_min_age_steps", "min_experts_per_layer", "max_merges_per_cycle",
        "merge_weights", "merge_logit_offset",
    )  # fmt: skip


def test_switched_off_it_proposes_nothing() -> None:
    config = LifecycleConfig(merge_enabled=False)
    assert list(propose(view_of(alike((0, 1)), config, alike_for(99)))) == []


@pytest.mark.parametrize(("first", "second", "survivor"), [(5, 3, "L0_E10"), (3, 5, "L0_E9")])
def test_the_older_survives(first: int, second: int, survivor: str) -> None:
    born = {"E9": {"born_step": first}, "E10": {"born_step": second}}
    signals = with_experts(alike((9, 10), n=12), **born)
    (verdict,) = Policy(eager()).feed(signals).verdicts
    assert verdict.candidate.expert_id == survivor


def test_of_two_of_the_same_age_the_older_id_survives() -> None:
    (verdict,) = Policy(eager()).feed(alike((10, 9), n=12)).verdicts
    assert (verdict.candidate.expert_id, verdict.candidate.partner_id) == ("L0_E9", "L0_E10")


# --- age: parent and child only


@pytest.mark.parametrize("parent", ["L0_E0", None, "L0_E2"])
def test_only_parent_and_child_must_have_an_age(parent: str | None) -> None:
    policy = Policy(eager(merge_min_age_steps=1000))
    young = with_experts(alike((0, 1)), E1={"born_step": 50, "parent_id": parent})
    outcome = policy.feed(young)
    if parent == "L0_E0":
        assert told(outcome) == [("MERGE", "L0_E0|L0_E1", "deferred")]
        assert why(outcome, Action.MERGE) == [
            "parent and child, 50 steps old, merge_min_age_steps=1000"
        ]
    else:
        assert done(outcome) == [("MERGE", "L0_E0|L0_E1")]


def test_parent_and_child_may_merge_from_their_age_on() -> None:
    policy = Policy(eager(merge_min_age_steps=1000))
    policy.feed(with_experts(alike((0, 1)), E1={"born_step": 100, "parent_id": "L0_E0"}), times=11)
    assert policy.executed_at() == [11]


# --- floor, budget, ranking


@pytest.mark.parametrize(
    ("n", "max_top_k", "verdict"), [(3, 2, "executed"), (2, 1, "blocked"), (4, 4, "blocked")]
)
def test_the_floor_holds_for_merges(n: int, max_top_k: int, verdict: str) -> None:
    outcome = Policy(eager()).feed(alike((0, 1), n=n, max_top_k=max_top_k))
    assert told(outcome) == [("MERGE", "L0_E0|L0_E1", verdict)]


def test_the_floor_counts_exclusive_twins_once() -> None:
    signals = with_experts(alike((0, 1), n=4), E3={"twin_of": "L0_E2"})
    assert done(Policy(eager()).feed(signals)) == [("MERGE", "L0_E0|L0_E1")]
    signals = with_experts(alike((0, 1), n=4, max_top_k=3), E3={"twin_of": "L0_E2"})
    assert told(Policy(eager()).feed(signals)) == [("MERGE", "L0_E0|L0_E1", "blocked")]


@pytest.mark.parametrize("budget", [0, 1, 2, 3])
def test_no_cycle_merges_more_than_its_budget(budget: int) -> None:
    outcome = Policy(eager(max_merges_per_cycle=budget)).feed(
        *(alike((0, 1), layer_id=i) for i in range(3))
    )
    assert done(outcome) == [("MERGE", f"L{i}_E0|L{i}_E1") for i in range(budget)]


def test_the_longest_alike_goes_first_then_the_oldest_ids() -> None:
    policy = Policy(eager(merge_patience=2))
    policy.feed(alike((4, 5), n=12))
    policy.feed(alike((4, 5), (3, 10), (3, 9), n=12))
    outcome = policy.feed(alike((3, 10), (4, 5), (3, 9), n=12))
    # Put off because of E4's probation; held longest nevertheless.
    assert [c[1] for c in told(outcome)][-2:] == ["L0_E3|L0_E9", "L0_E3|L0_E10"]
    policy = Policy(eager(merge_patience=2, max_merges_per_cycle=0))
    policy.feed(alike((4, 5), n=12))
    policy.feed(alike((4, 5), (3, 10), (3, 9), n=12))
    outcome = policy.feed(alike((3, 10), (4, 5), (3, 9), n=12))
    assert [c[1] for c in told(outcome)] == ["L0_E4|L0_E5", "L0_E3|L0_E9", "L0_E3|L0_E10"]


def test_two_pairs_of_one_survivor_are_two_candidates() -> None:
    policy = Policy(eager(merge_patience=1, max_merges_per_cycle=0))
    policy.feed(alike((0, 1), (0, 2)))
    outcome = policy.feed(alike((0, 1)))
    assert told(outcome) == [
        ("MERGE", "L0_E0|L0_E1", "deferred"),
        ("MERGE", "L0_E0|L0_E2", "stale"),
    ]
    assert outcome.verdicts[1].candidate.partner_id == "L0_E2"


def test_weights_alone_or_tokens_alone_do_not_merge() -> None:
    for pair in (
        PairSignals("L0_E0", "L0_E1", 0.99, 0.8),
        PairSignals("L0_E0", "L0_E1", 0.95, 1.0),
    ):
        assert told(Policy(eager()).feed(replace(healthy(), pairs=[pair]))) == []
