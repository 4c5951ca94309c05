"""Spawn and revive: the neediest of the starving layers, one birth at a time."""

from __future__ import annotations

from typing import Any

import pytest
from unit.lifecycle.signal_builders import (
    Policy,
    done,
    eager,
    expert,
    healthy,
    hogged,
    layer,
    starving,
    told,
    view_of,
    why,
)

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.counters import LayerCounters
from chronorun.lifecycle.decide.policy_state import LayerPolicy, PolicyState, Probation
from chronorun.lifecycle.decide.signals import ArchiveMatch
from chronorun.lifecycle.decide.spawn import propose, rank


def starved_for(checkpoints: int) -> LayerPolicy:
    return LayerPolicy(counters=LayerCounters(starvation=checkpoints))


MATCHES = [ArchiveMatch("L0_E7", 0.8), ArchiveMatch("L0_E8", 0.9), ArchiveMatch("L0_E9", 0.79)]


@pytest.mark.parametrize(("held", "proposed"), [(4, False), (5, True)])
def test_a_layer_is_proposed_once_it_starved_for_the_patience(held: int, proposed: bool) -> None:
    found = list(propose(view_of(starving(), LifecycleConfig(), starved_for(held))))
    assert len(found) == proposed


@pytest.mark.parametrize("held", [5, 8])
def test_the_candidate_says_what_decided(held: int) -> None:
    ((candidate, limit),) = propose(
        view_of(starving(debt=0.3), LifecycleConfig(), starved_for(held))
    )
    assert limit is None
    assert (candidate.action, candidate.reason) == (Action.SPAWN, "sustained_starvation")
    assert candidate.metrics == {
        "layer_entropy": 1.25,
        "layer_neff": 3.5,
        "topology_debt": 0.5,
        "unresolved_debt": 0.3,
        "token_entropy_ratio": 0.99,
        "num_experts": 4,
        "starvation_duration": held,
        "starved_by": "undecided",
        "overflow": 0.0,
        "archive_overlap": None,
        "predicted_benefit": 0.0,
    }
    assert candidate.decided_by == (
        "spawn_patience", "spawn_entropy_threshold", "spawn_entropy_drop",
        "spawn_overflow_threshold", "spawn_cooldown_steps", "max_spawns_per_cycle",
        "max_experts_per_layer", "spawn_init_strategy", "revive_overlap_threshold",
    )  # fmt: skip


def test_a_saturated_layer_says_so() -> None:
    full = layer(expert(e, 0.25, overflow=0.06) for e in range(4))
    (verdict,) = Policy(eager()).feed(full).verdicts
    assert verdict.candidate.metrics["starved_by"] == "saturated"
    assert verdict.candidate.metrics["overflow"] == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("strategy", "parent", "cluster"),
    [
        ("clone_and_perturb", "L0_E1", ("L0_E1",)),
        ("mean_cluster", None, ("L0_E1", "L0_E2")),
        ("random", None, ()),
    ],
)
def test_a_newborn_has_a_parent_only_where_it_is_a_clone(
    strategy: Any, parent: str | None, cluster: tuple[str, ...]
) -> None:
    config = LifecycleConfig(spawn_init_strategy=strategy)
    ((candidate, _),) = propose(view_of(starving(), config, starved_for(5)))
    assert (candidate.expert_id, candidate.parent_id) == ("L0_E99", parent)
    assert candidate.cluster == cluster


# --- limits


@pytest.mark.parametrize(("pending", "verdict"), [(0, "executed"), (1, "blocked")])
def test_no_birth_beyond_the_cap(pending: int, verdict: str) -> None:
    policy = Policy(eager(max_experts_per_layer=5))
    assert told(policy.feed(starving(4, pending_spawns=pending))) == [("SPAWN", "L0", verdict)]
    matched = starving(4, pending_spawns=pending, archive_matches=MATCHES)
    outcome = Policy(eager(max_experts_per_layer=5)).feed(matched)
    assert told(outcome) == [("REVIVE", "L0_E8", verdict)]


def test_the_cooldown_is_global() -> None:
    policy = Policy(eager(spawn_cooldown_steps=500, dry_run=True))
    policy.feed(starving(layer_id=0), healthy(layer_id=1))
    policy.feed(healthy(layer_id=0), starving(layer_id=1), times=5)
    assert policy.executed_at() == [1, 6]
    assert why(policy.outcomes[1], Action.SPAWN) == [
        "spawn_cooldown_steps=500, spawned at step 100"
    ]


def test_the_cooldown_stands_between_any_two_births_those_of_one_cycle_too() -> None:
    layers = [starving(layer_id=i) for i in range(3)]
    outcome = Policy(eager(max_spawns_per_cycle=3, spawn_cooldown_steps=1)).feed(*layers)
    assert told(outcome) == [
        ("SPAWN", "L0", "executed"), ("SPAWN", "L1", "deferred"), ("SPAWN", "L2", "deferred"),
    ]  # fmt: skip


@pytest.mark.parametrize("budget", [0, 1, 2, 3])
def test_births_draw_on_one_budget(budget: int) -> None:
    config = eager(max_spawns_per_cycle=budget)
    layers = [
        starving(layer_id=0, debt=0.1, archive_matches=MATCHES),
        starving(layer_id=1, debt=0.3),
        starving(layer_id=2, debt=0.2),
    ]
    outcome = Policy(config).feed(*layers)
    expected = [("SPAWN", "L1"), ("SPAWN", "L2"), ("REVIVE", "L0_E8")]
    assert done(outcome) == expected[:budget]


def test_a_revival_starts_the_cooldown_too() -> None:
    policy = Policy(eager(spawn_cooldown_steps=500, dry_run=True))
    assert done(policy.feed(starving(archive_matches=MATCHES))) == [("REVIVE", "L0_E8")]
    assert told(policy.feed(starving())) == [("SPAWN", "L0", "deferred")]


def test_a_split_leaves_the_cooldown_of_spawns_alone() -> None:
    policy = Policy(eager(spawn_cooldown_steps=500, dry_run=True))
    assert done(policy.feed(hogged())) == [("SPLIT", "L0_E0")]
    assert done(policy.feed(starving())) == [("SPAWN", "L0")]


# --- revival


def test_the_best_match_of_those_that_overlap_enough_comes_back_instead() -> None:
    (verdict,) = Policy(eager()).feed(starving(archive_matches=MATCHES)).verdicts
    candidate = verdict.candidate
    assert (candidate.action, candidate.expert_id) == (Action.REVIVE, "L0_E8")
    assert (candidate.parent_id, candidate.cluster) == (None, ())
    assert candidate.metrics["archive_overlap"] == 0.9


@pytest.mark.parametrize(
    ("overlap", "spawn", "revive", "expected"),
    [
        (0.8, True, True, [("REVIVE", "L0_E7")]),
        (0.79, True, True, [("SPAWN", "L0")]),
        (0.9, True, False, [("SPAWN", "L0")]),
        (0.9, False, True, [("REVIVE", "L0_E7")]),
        (0.7, False, True, []),
        (0.9, False, False, []),
    ],
)
def test_each_of_the_two_can_be_switched_off(
    overlap: float, spawn: bool, revive: bool, expected: list[tuple[str, str]]
) -> None:
    config = eager(spawn_enabled=spawn, revive_enabled=revive)
    matched = starving(archive_matches=[ArchiveMatch("L0_E7", overlap)])
    assert done(Policy(config).feed(matched)) == expected


def test_an_archived_expert_whose_prune_is_on_probation_stays_where_it_is() -> None:
    policy = Policy(eager())
    policy.state.probations = [Probation(0, Action.PRUNE, 0, ("L0_E8",), due=99)]
    outcome = policy.feed(starving(archive_matches=MATCHES))
    assert told(outcome) == [("REVIVE", "L0_E8", "deferred")]
    assert why(outcome, Action.REVIVE) == ["L0_E8 on probation"]


@pytest.mark.parametrize(
    ("strategy", "barred", "verdict"),
    [
        ("clone_and_perturb", "L0_E1", "deferred"),
        ("clone_and_perturb", "L0_E2", "executed"),
        ("mean_cluster", "L0_E2", "deferred"),
        ("mean_cluster", "L0_E3", "executed"),
        ("random", "L0_E1", "executed"),
    ],
)
def test_nothing_is_made_of_an_expert_on_probation(
    strategy: Any, barred: str, verdict: str
) -> None:
    policy = Policy(eager(spawn_init_strategy=strategy))
    policy.state.probations = [Probation(0, Action.SPLIT, 0, (barred,), due=99)]
    assert told(policy.feed(starving())) == [("SPAWN", "L0", verdict)]


# --- ranking


def ranked(
    layers: list[tuple[float, int]], state: PolicyState | None = None, **config: Any
) -> list[int]:
    settings = LifecycleConfig(**config)
    proposals = [
        proposal
        for i, (debt, held) in enumerate(layers)
        for proposal in propose(
            view_of(starving(layer_id=i, debt=debt), settings, starved_for(held))
        )
    ]
    found = rank(proposals[::-1], state or PolicyState(), settings)
    return [c.layer_id for c, _ in found]


@pytest.mark.parametrize(
    ("layers", "order"),
    [
        ([(0.1, 9), (0.3, 5), (0.2, 5)], [1, 2, 0]),
        ([(0.2, 5), (0.2, 7), (0.2, 6)], [1, 2, 0]),
        ([(0.2, 5), (0.2, 5), (0.2, 5)], [0, 1, 2]),
        ([(0.0, 5), (0.0, 6)], [1, 0]),
    ],
    ids=["debt", "starvation", "layer", "no debt at all"],
)
def test_debt_ranks_then_starvation_then_the_lowest_layer(
    layers: list[tuple[float, int]], order: list[int]
) -> None:
    assert ranked(layers) == order


def grown(*growth: int) -> PolicyState:
    return PolicyState(layers={i: LayerPolicy(growth=g) for i, g in enumerate(growth)})


@pytest.mark.parametrize(
    ("growth", "order"),
    [
        ((0, 0, 0, 1), [2, 0, 1, 3]),
        ((1, 0, 1, 0), [1, 3, 0, 2]),
        ((0, 0, 0, -2), [0, 1, 2, 3]),
        ((0, 0, 0, 0), [0, 1, 2, 3]),
    ],
)
def test_depth_balance_puts_the_neighbours_of_a_layer_that_grew_first(
    growth: tuple[int, ...], order: list[int]
) -> None:
    layers = [(0.4, 5), (0.3, 5), (0.2, 5), (0.1, 5)]
    assert ranked(layers, grown(*growth), cross_layer="depth_balance") == order
    assert ranked(layers, grown(*growth)) == [0, 1, 2, 3]


def test_a_layer_counts_as_grown_by_what_it_gained_in_all() -> None:
    policy = Policy(eager(dry_run=True))
    policy.feed(hogged())
    assert policy.state.layers[0].growth == 1
    policy.feed(starving())
    assert policy.state.layers[0].growth == 2


def test_a_birth_that_was_undone_is_no_growth() -> None:
    policy = Policy(eager())
    policy.feed(starving())
    assert policy.state.layers[0].growth == 1
    assert done(policy.judge(0, benefit=0.1)) == [("ROLLBACK", "L0_E99")]
    assert policy.state.layers[0].growth == 0


def test_the_neediest_layer_gets_the_only_birth_and_the_others_wait() -> None:
    outcome = Policy(eager()).feed(starving(layer_id=0, debt=0.1), starving(layer_id=1, debt=0.2))
    assert told(outcome) == [("SPAWN", "L1", "executed"), ("SPAWN", "L0", "deferred")]
    assert why(outcome, Action.SPAWN)[1] == "max_spawns_per_cycle reached"
