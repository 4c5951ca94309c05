"""Split: overloaded for its patience, now too, with room left and not split lately."""

from __future__ import annotations

import pytest
from unit.lifecycle.signal_builders import (
    Policy,
    done,
    eager,
    expert,
    healthy,
    hogged,
    layer,
    told,
    view_of,
    why,
    with_experts,
)

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.counters import LayerCounters
from chronorun.lifecycle.decide.policy_state import LayerPolicy
from chronorun.lifecycle.decide.split import propose
from chronorun.lifecycle.experts.states import ExpertState


def overloaded_for(checkpoints: int) -> LayerPolicy:
    return LayerPolicy(counters=LayerCounters(overload={"L0_E0": checkpoints}))


@pytest.mark.parametrize(("held", "proposed"), [(4, False), (5, True)])
def test_an_expert_is_proposed_once_it_was_overloaded_for_the_patience(
    held: int, proposed: bool
) -> None:
    found = list(propose(view_of(hogged(), LifecycleConfig(), overloaded_for(held))))
    assert len(found) == proposed


def test_the_candidate_says_what_decided() -> None:
    signals = with_experts(hogged(), E0={"two_mode_score": 0.4})
    ((candidate, limit),) = propose(view_of(signals, LifecycleConfig(), overloaded_for(6)))
    assert limit is None
    assert (candidate.expert_id, candidate.parent_id) == ("L0_E99", "L0_E0")
    assert (candidate.action, candidate.reason) == (Action.SPLIT, "overloaded")
    assert candidate.metrics == {
        "layer_entropy": 1.25,
        "layer_neff": 3.5,
        "topology_debt": 0.5,
        "unresolved_debt": 0.25,
        "token_entropy_ratio": 0.7,
        "num_experts": 4,
        "share": 0.55,
        "share_ratio": pytest.approx(2.2),
        "overload_duration": 6,
        "two_mode_score": 0.4,
        "predicted_benefit": 0.0,
    }
    assert candidate.decided_by == (
        "split_share_threshold", "split_share_ratio", "split_pair_ratio", "split_patience",
        "split_two_mode", "split_two_mode_threshold", "split_cooldown_per_expert",
        "max_splits_per_cycle", "max_experts_per_layer", "split_perturbation_scale",
    )  # fmt: skip


def test_switched_off_it_proposes_nothing() -> None:
    config = LifecycleConfig(split_enabled=False)
    assert list(propose(view_of(hogged(), config, overloaded_for(99)))) == []


def test_the_share_must_exceed_the_threshold_in_the_newest_window() -> None:
    policy = Policy(eager(split_patience=3))
    policy.feed(hogged(), times=2)
    assert told(policy.feed(hogged(share=0.4))) == []


@pytest.mark.parametrize(("pending", "verdict"), [(0, "executed"), (1, "blocked")])
def test_no_split_beyond_the_cap_births_included(pending: int, verdict: str) -> None:
    policy = Policy(eager(max_experts_per_layer=5))
    outcome = policy.feed(hogged(n=4, pending_spawns=pending))
    assert told(outcome) == [("SPLIT", "L0_E0", verdict)]
    if pending:
        assert why(outcome, Action.SPLIT) == ["5 experts, max_experts_per_layer=5"]


def test_the_cap_counts_both_twins() -> None:
    signals = with_experts(hogged(n=5), E4={"twin_of": "L0_E3"})
    outcome = Policy(eager(max_experts_per_layer=5)).feed(signals)
    assert told(outcome) == [("SPLIT", "L0_E0", "blocked")]


def test_an_expert_splits_again_only_after_its_cooldown() -> None:
    policy = Policy(eager(split_cooldown_per_expert=1000, dry_run=True), every=250)
    policy.feed(hogged(), times=6)
    assert policy.executed_at() == [1, 5]
    assert why(policy.outcomes[2], Action.SPLIT) == [
        "split_cooldown_per_expert=1000, split at step 250"
    ]


def test_another_expert_need_not_wait_for_it() -> None:
    policy = Policy(eager(split_cooldown_per_expert=1000, dry_run=True))
    policy.feed(hogged(0))
    assert done(policy.feed(hogged(1))) == [("SPLIT", "L0_E1")]


@pytest.mark.parametrize("budget", [0, 1, 2, 3])
def test_no_cycle_splits_more_than_its_budget(budget: int) -> None:
    outcome = Policy(eager(max_splits_per_cycle=budget)).feed(
        *(hogged(layer_id=i) for i in range(3))
    )
    assert done(outcome) == [("SPLIT", f"L{i}_E0") for i in range(budget)]


def test_the_longest_overloaded_goes_first_then_the_oldest_id() -> None:
    policy = Policy(eager(split_patience=2, split_share_threshold=0.2))
    # By slot E10 comes before E9, by age after it.
    both = layer([expert(10, 0.35), expert(9, 0.35), expert(1, 0.15), expert(2, 0.15)])
    policy.feed(both)
    assert [c[1] for c in told(policy.feed(both))] == ["L0_E9", "L0_E10"]
    policy.feed(layer([expert(10, 0.6), expert(9, 0.1), expert(1, 0.15), expert(2, 0.15)]))
    policy.feed(both)
    assert [c[1] for c in told(policy.feed(both))] == ["L0_E10", "L0_E9"]


@pytest.mark.parametrize("state", [ExpertState.cooling, ExpertState.pending_prune])
def test_only_an_active_expert_splits(state: ExpertState) -> None:
    assert told(Policy(eager()).feed(with_experts(hogged(), E0={"state": state}))) == []


def test_a_split_that_was_put_off_and_is_no_longer_due_is_stale() -> None:
    policy = Policy(eager(split_cooldown_per_expert=1000, dry_run=True))
    policy.feed(hogged(), times=2)
    outcome = policy.feed(healthy())
    (stale,) = outcome.verdicts
    assert stale.to_dict() == {
        "action": "SPLIT",
        "expert_id": "L0_E99",
        "parent_id": "L0_E0",
        "partner_id": None,
        "reason": "condition_ended",
        "held": 0,
        "undoes": None,
        "status": "stale",
        "why": "put off before, no longer due",
        "seq": None,
    }
    assert told(policy.feed(healthy())) == []
