"""A cycle: the order of actions, the limits they share, and what holds for every sequence."""

from __future__ import annotations

import copy
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from unit.lifecycle.signal_builders import (
    Policy,
    Population,
    alike,
    dead,
    done,
    eager,
    expert,
    healthy,
    hogged,
    layer,
    replayed,
    starving,
    through_json,
    told,
    why,
    with_experts,
)

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.core.state import to_plain
from chronorun.lifecycle.decide.actions import GROWS, SHRINKS, Action, Status
from chronorun.lifecycle.decide.cycle import advance
from chronorun.lifecycle.decide.policy_state import PolicyState, Probation
from chronorun.lifecycle.decide.signals import LayerSignals, PairSignals, ProbationReading
from chronorun.lifecycle.experts.states import ExpertState

KINDS: dict[str, LayerSignals] = {
    "PRUNE": dead(3),
    "MERGE": alike((0, 1)),
    "SPLIT": hogged(),
    "SPAWN": starving(),
}


def everything(layer_id: int = 0, **more: Any) -> LayerSignals:
    """A layer in which every action is due; E4 is dead, E0 a hog, E1 and E2 are alike."""
    shares = [0.55, 0.15, 0.15, 0.15]
    each = [expert(e, share, layer_id=layer_id) for e, share in enumerate(shares)]
    each.append(expert(4, 0.0, ExpertState.dormant, layer_id))
    pair = PairSignals(f"L{layer_id}_E1", f"L{layer_id}_E2", 0.96, 0.9)
    return layer(each, layer_id, pairs=[pair], token_entropy_ratio=0.99, **more)


# --- order, one action per layer


def test_the_order_is_rollback_prune_merge_split_then_birth() -> None:
    policy = Policy(eager(probation_checkpoints=1))
    policy.feed(hogged(layer_id=0))
    outcome = policy.feed(
        # In the reverse of the order.
        starving(layer_id=4), hogged(layer_id=3), alike((0, 1), layer_id=2), dead(3, layer_id=1),
        healthy(layer_id=0, probations=[ProbationReading(0, 3.0, 2.0, 2.0)]),
    )  # fmt: skip
    assert done(outcome) == [
        ("ROLLBACK", "L0_E99"), ("PRUNE", "L1_E3"), ("MERGE", "L2_E0|L2_E1"),
        ("SPLIT", "L3_E0"), ("SPAWN", "L4"),
    ]  # fmt: skip
    assert [v.seq for v in outcome.executed()] == [1, 2, 3, 4, 5]


def test_a_layer_does_one_thing_in_a_cycle_the_first_in_order() -> None:
    outcome = Policy(eager(dry_run=True)).feed(everything())
    assert told(outcome) == [
        ("PRUNE", "L0_E4", "executed"), ("MERGE", "L0_E1|L0_E2", "deferred"),
        ("SPLIT", "L0_E0", "deferred"), ("SPAWN", "L0", "deferred"),
    ]  # fmt: skip
    assert why(outcome, Action.MERGE) == ["one action per layer and cycle"]


def test_a_blocked_candidate_does_not_use_the_action_of_its_layer_up() -> None:
    outcome = Policy(eager()).feed(everything(max_top_k=5))
    assert told(outcome) == [
        ("PRUNE", "L0_E4", "blocked"), ("MERGE", "L0_E1|L0_E2", "blocked"),
        ("SPLIT", "L0_E0", "executed"), ("SPAWN", "L0", "deferred"),
    ]  # fmt: skip


def test_neither_does_a_declined_rollback() -> None:
    policy = Policy(eager(probation_checkpoints=1))
    policy.feed(hogged())
    declined = dead(3, probations=[ProbationReading(0, 3.0, 2.0, 3.5)])
    assert told(policy.feed(declined)) == [
        ("ROLLBACK", "L0_E99", "declined"), ("PRUNE", "L0_E3", "executed"),
    ]  # fmt: skip


def test_each_layer_has_an_action_of_its_own() -> None:
    outcome = Policy(eager()).feed(*(everything(i) for i in range(4)))
    assert done(outcome) == [("PRUNE", "L0_E4"), ("MERGE", "L1_E1|L1_E2"), ("SPLIT", "L2_E0"),
                             ("SPAWN", "L3")]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_happens_where_a_birth_waits_for_its_integration(kind: str) -> None:
    outcome = Policy(eager()).feed(replace(KINDS[kind], pending_spawns=1))
    assert [v.status for v in outcome.verdicts] == [Status.deferred]
    assert outcome.verdicts[0].why == "a birth of this layer waits for its integration"


# --- cadence, warm-up


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_only_every_interval_th_checkpoint_acts(interval: int) -> None:
    policy = Policy(eager(lifecycle_eval_interval=interval, dry_run=True))
    policy.feed(dead(3), times=12)
    cycles = [checkpoint for checkpoint in range(1, 13) if checkpoint % interval == 0]
    assert policy.executed_at() == cycles
    assert [o.checkpoint for o in policy.outcomes if o.is_cycle] == cycles
    assert all(not o.verdicts for o in policy.outcomes if not o.is_cycle)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acts_during_the_warm_up_while_counters_run(kind: str) -> None:
    patience = dict.fromkeys([f"{k}_patience" for k in ("prune", "merge", "split", "spawn")], 4)
    policy = Policy(eager(**patience), warmup_steps=600)
    policy.feed(KINDS[kind], times=5)
    assert [told(o)[0][2] for o in policy.outcomes if o.verdicts] == ["deferred"] * 2
    assert policy.outcomes[-1].verdicts[0].why == "warm-up until step 600"
    assert policy.state.next_seq == 0
    # The step at which it ends is the first on which something may happen.
    assert [a for a, _ in done(policy.feed(KINDS[kind]))] == [kind]


# --- reversal


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_opposite_edits_of_a_layer_keep_apart(first: str, second: str) -> None:
    policy = Policy(eager(reversal_cooldown_checkpoints=4, dry_run=True))
    policy.feed(KINDS[first])
    policy.feed(KINDS[second], times=4)
    opposite = (first in GROWS) is not (second in GROWS)
    relocation = (first, second) == ("PRUNE", "SPLIT")
    waits = opposite and not relocation
    assert policy.executed_at() == ([1, 5] if waits else [1, 2, 3, 4, 5])
    if waits:
        assert policy.outcomes[1].verdicts[0].why == (
            f"reversal_cooldown_checkpoints=4, {first} 1 checkpoints ago"
        )


def test_another_layer_need_not_wait() -> None:
    policy = Policy(eager(reversal_cooldown_checkpoints=10))
    policy.feed(dead(3, layer_id=0), healthy(layer_id=1))
    assert done(policy.feed(healthy(3, layer_id=0), starving(layer_id=1))) == [("SPAWN", "L1")]


def test_a_revival_reverses_a_prune() -> None:
    policy = Policy(eager(reversal_cooldown_checkpoints=3))
    policy.feed(dead(3))
    outcome = policy.feed(starving(3))
    assert told(outcome) == [("SPAWN", "L0", "deferred")]


def test_only_a_hog_may_split_after_a_prune() -> None:
    config = {"split_two_mode": "add", "reversal_cooldown_checkpoints": 10}
    policy = Policy(eager(**config))
    policy.feed(dead(3))
    two_modes = with_experts(healthy(3), E0={"two_mode_score": 0.9})
    assert told(policy.feed(two_modes)) == [("SPLIT", "L0_E0", "deferred")]
    assert done(policy.feed(hogged(n=3))) == [("SPLIT", "L0_E0")]


def test_a_prune_does_not_lift_the_wait_that_a_merge_began() -> None:
    policy = Policy(eager(reversal_cooldown_checkpoints=5, dry_run=True))
    policy.feed(alike((0, 1)))
    policy.feed(dead(3))
    policy.feed(hogged(), times=4)
    assert policy.executed_at() == [1, 2, 6]


def test_a_relocation_does_not_lift_the_wait_that_its_prune_began() -> None:
    policy = Policy(eager(reversal_cooldown_checkpoints=5, dry_run=True))
    policy.feed(dead(3))
    policy.feed(hogged())
    policy.feed(starving(), times=4)
    assert policy.executed_at() == [1, 2, 6]


def test_a_layer_that_goes_on_growing_cannot_put_its_prune_off_for_ever() -> None:
    policy = Policy(eager(reversal_cooldown_checkpoints=3, dry_run=True))
    policy.feed(starving())
    needy = dead(3, token_entropy_ratio=0.99)
    policy.feed(needy, times=3)
    assert [done(o) for o in policy.outcomes] == [[("SPAWN", "L0")], [], [], [("PRUNE", "L0_E3")]]
    assert why(policy.outcomes[1], Action.SPAWN) == ["PRUNE L0_E3 is next in this layer"]


# --- probation bars from everything


@pytest.mark.parametrize(
    ("kind", "barred"),
    [("PRUNE", "L0_E3"), ("SPLIT", "L0_E0"), ("SPAWN", "L0_E1")],
)
def test_an_expert_on_probation_takes_part_in_nothing(kind: str, barred: str) -> None:
    policy = Policy(eager())
    policy.state.probations = [Probation(0, Action.MERGE, 0, (barred,), due=3)]
    policy.feed(KINDS[kind], times=2)
    for outcome in policy.outcomes:
        assert [v.why for v in outcome.verdicts] == [f"{barred} on probation"]


@pytest.mark.parametrize("barred", ["L0_E0", "L0_E1"])
def test_nor_does_its_pair_count_as_alike_meanwhile(barred: str) -> None:
    policy = Policy(eager(merge_patience=2))
    policy.state.probations = [Probation(0, Action.SPLIT, 0, (barred,), due=3)]
    policy.feed(KINDS["MERGE"], times=3)
    assert all(not o.verdicts for o in policy.outcomes)
    policy.feed(KINDS["MERGE"], times=2)
    assert policy.executed_at() == [5]


def test_it_is_barred_in_the_cycle_that_put_it_there_too() -> None:
    policy = Policy(eager(max_merges_per_cycle=9))
    outcome = policy.feed(alike((0, 1), (1, 2)))
    assert told(outcome)[1] == ("MERGE", "L0_E1|L0_E2", "deferred")
    assert outcome.verdicts[1].why == "L0_E1 on probation"


# --- windows without tokens


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_without_tokens_brings_nothing_at_all(kind: str) -> None:
    policy = Policy(eager(max_prunes_per_cycle=0, max_merges_per_cycle=0, max_splits_per_cycle=0,
                          max_spawns_per_cycle=0))  # fmt: skip
    policy.feed(KINDS[kind])
    before = policy.state
    assert before.deferred
    suspect = with_experts(KINDS[kind], E2={"weight_deviation": 99.0})
    outcome = policy.feed(replace(suspect, dispatched=0))
    assert (outcome.verdicts, outcome.judgements, outcome.suspects) == ([], [], [])
    assert replace(policy.state, checkpoint=before.checkpoint) == before
    # What was put off is neither forgotten nor over.
    assert [c[0] for c in told(policy.feed(healthy()))] == [kind]
    assert policy.outcomes[-1].verdicts[0].status is Status.stale


def test_a_layer_without_tokens_holds_no_other_up() -> None:
    outcome = Policy(eager()).feed(dead(3, dispatched=0), dead(3, layer_id=1))
    assert told(outcome) == [("PRUNE", "L1_E3", "executed")]


def test_what_was_put_off_in_a_layer_that_is_not_told_of_is_kept() -> None:
    policy = Policy(eager(max_prunes_per_cycle=0))
    policy.feed(dead(3), dead(3, layer_id=1))
    policy.feed(healthy())
    assert policy.state.deferred == {"PRUNE L1_E3": "1"}
    assert told(policy.feed(healthy(), healthy(layer_id=1))) == [("PRUNE", "L1_E3", "stale")]


# --- suspects


def suspicious() -> LayerSignals:
    return with_experts(healthy(), E2={"weight_deviation": 9.0})


def test_a_suspect_is_said_once_when_the_suspicion_has_lasted() -> None:
    policy = Policy(eager(suspect_patience=2))
    policy.feed(suspicious(), times=4)
    assert [o.suspects for o in policy.outcomes] == [[], [(0, "L0_E2")], [], []]
    policy.feed(healthy())
    policy.feed(suspicious(), times=3)
    assert [o.suspects for o in policy.outcomes[5:]] == [[], [(0, "L0_E2")], []]


def test_a_window_without_tokens_repeats_no_suspect() -> None:
    policy = Policy(eager(suspect_patience=2))
    policy.feed(suspicious(), times=2)
    policy.feed(replace(suspicious(), dispatched=0), times=2)
    assert [o.suspects for o in policy.outcomes] == [[], [(0, "L0_E2")], [], []]


def test_suspects_are_said_outside_cycles_too() -> None:
    policy = Policy(LifecycleConfig())
    policy.feed(suspicious(), times=2)
    assert policy.outcomes[-1].suspects == [(0, "L0_E2")]
    assert not policy.outcomes[-1].is_cycle


# --- stale


def test_a_candidate_that_was_put_off_and_ended_is_stale_once() -> None:
    policy = Policy(eager(max_prunes_per_cycle=0, lifecycle_eval_interval=2))
    policy.feed(dead(3), times=2)
    policy.feed(healthy(), times=6)
    assert [told(o) for o in policy.outcomes if o.verdicts] == [
        [("PRUNE", "L0_E3", "deferred")], [("PRUNE", "L0_E3", "stale")],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("PRUNE", "L0_E3"), ("MERGE", "L0_E0|L0_E1"), ("SPLIT", "L0_E0"), ("SPAWN", "L0")],
)
def test_what_is_stale_bears_the_name_it_had(kind: str, subject: str) -> None:
    policy = Policy(eager(), warmup_steps=101)
    (before,) = policy.feed(KINDS[kind]).verdicts
    (after,) = policy.feed(healthy()).verdicts
    assert (after.candidate.key, after.candidate.subject) == (before.candidate.key, subject)
    assert after.candidate.reason == "condition_ended"


def test_what_was_blocked_is_not_awaited() -> None:
    policy = Policy(eager())
    assert told(policy.feed(dead(3, max_top_k=4))) == [("PRUNE", "L0_E3", "blocked")]
    assert policy.state.deferred == {}


# --- dry run


def test_a_dry_run_charges_budgets_and_cooldowns_and_puts_nothing_on_probation() -> None:
    policy = Policy(eager(dry_run=True, spawn_cooldown_steps=300, split_cooldown_per_expert=300,
                          reversal_cooldown_checkpoints=3))  # fmt: skip
    layers = [starving(layer_id=0), hogged(layer_id=1), healthy(layer_id=2)]
    assert done(policy.feed(*layers)) == [("SPLIT", "L1_E0"), ("SPAWN", "L0")]
    assert policy.state.probations == []
    outcome = policy.feed(starving(layer_id=2), hogged(layer_id=1), dead(3, layer_id=0))
    assert told(outcome) == [
        ("PRUNE", "L0_E3", "deferred"), ("SPLIT", "L1_E0", "deferred"),
        ("SPAWN", "L2", "deferred"),
    ]  # fmt: skip
    policy.feed(*layers)
    assert done(policy.feed(starving(layer_id=2), hogged(layer_id=1))) == [
        ("SPLIT", "L1_E0"), ("SPAWN", "L2"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_decides_at_first_what_a_real_one_does(kind: str) -> None:
    real, dry = (Policy(eager(dry_run=d)).feed(KINDS[kind]) for d in (False, True))
    assert real == dry


# --- for every sequence

CONFIGS = st.builds(
    LifecycleConfig,
    lifecycle_eval_interval=st.integers(1, 3),
    lifecycle_warmup_steps=st.just(0),
    prune_patience=st.integers(1, 3),
    prune_lens_grace=st.integers(0, 3),
    merge_patience=st.integers(1, 3),
    split_patience=st.integers(1, 3),
    spawn_patience=st.integers(1, 3),
    max_prunes_per_cycle=st.integers(0, 2),
    max_merges_per_cycle=st.integers(0, 2),
    max_splits_per_cycle=st.integers(0, 2),
    max_spawns_per_cycle=st.integers(0, 2),
    spawn_cooldown_steps=st.sampled_from([0, 100, 350]),
    split_cooldown_per_expert=st.sampled_from([0, 250, 900]),
    merge_min_age_steps=st.sampled_from([0, 600]),
    reversal_cooldown_checkpoints=st.integers(0, 6),
    probation_checkpoints=st.integers(1, 6),
    max_experts_per_layer=st.integers(4, 6),
    min_experts_per_layer=st.integers(1, 3),
    spawn_init_strategy=st.sampled_from(["clone_and_perturb", "mean_cluster", "random"]),
    cross_layer=st.sampled_from(["none", "depth_balance"]),
    dry_run=st.just(False),
)
SEEDS = st.integers(0, 2**32 - 1)
CHECKPOINTS, STEPS, WARMUP = 30, 100, 500


def start(seed: int) -> Population:
    return Population(Random(seed), [4, 3, 4], max_top_k=2)


@settings(max_examples=150, deadline=None)
@given(config=CONFIGS, seed=SEEDS, dry=st.booleans())
def test_no_sequence_of_signals_breaks_a_limit(
    config: LifecycleConfig, seed: int, dry: bool
) -> None:
    config = replace(config, dry_run=dry)
    population, state = start(seed), PolicyState()
    floor = max(config.min_experts_per_layer, population.max_top_k)
    births: list[int] = []
    splits: dict[str, int] = {}
    edits: list[tuple[int, int, Action]] = []
    for checkpoint in range(1, CHECKPOINTS + 1):
        step = checkpoint * STEPS
        signals = population.signals(state, step)
        barred = {p.seq: p for p in state.probations}
        state, outcome = advance(state, signals, config, WARMUP)
        by_layer = {s.layer_id: s for s in signals}
        executed = outcome.executed()
        kinds = [v.candidate.action for v in executed]
        touched_layers = [v.candidate.layer_id for v in executed]

        assert not outcome.verdicts or checkpoint % config.lifecycle_eval_interval == 0
        assert len(set(touched_layers)) == len(touched_layers)
        assert kinds.count(Action.PRUNE) <= config.max_prunes_per_cycle
        assert kinds.count(Action.MERGE) <= config.max_merges_per_cycle
        assert kinds.count(Action.SPLIT) <= config.max_splits_per_cycle
        born = kinds.count(Action.SPAWN) + kinds.count(Action.REVIVE)
        assert born <= config.max_spawns_per_cycle
        assert all(by_layer[v.candidate.layer_id].dispatched for v in outcome.verdicts)

        for v in executed:
            c = v.candidate
            if c.action is Action.ROLLBACK:
                assert c.undoes in barred
                assert barred[c.undoes].due <= checkpoint
            else:
                assert step >= WARMUP
                assert not c.touches & {e for p in barred.values() for e in p.experts}
                for at, layer_id, action in edits:
                    opposite = {action, c.action} & GROWS and {action, c.action} & SHRINKS
                    relocation = (action, c.action) == (Action.PRUNE, Action.SPLIT)
                    if layer_id == c.layer_id and opposite and not relocation:
                        assert checkpoint - at >= config.reversal_cooldown_checkpoints
                edits.append((checkpoint, c.layer_id, c.action))
            if c.action in (Action.SPAWN, Action.REVIVE):
                assert all(step - at >= config.spawn_cooldown_steps for at in births)
                births.append(step)
            if c.action is Action.SPLIT:
                assert c.parent_id is not None
                last = splits.get(c.parent_id)
                assert last is None or step - last >= config.split_cooldown_per_expert
                splits[c.parent_id] = step
            if not dry:
                population.carry_out(v, step)
        for layer_id, live in population.live.items():
            assert len(live) <= config.max_experts_per_layer
            assert population.groups(layer_id) >= floor
        assert not (dry and state.probations)


@settings(max_examples=50, deadline=None)
@given(config=CONFIGS, seed=SEEDS)
def test_a_resume_and_a_replay_decide_what_the_run_did(config: LifecycleConfig, seed: int) -> None:
    population, state = start(seed), PolicyState()
    resumed = replay = state
    for checkpoint in range(1, CHECKPOINTS + 1):
        signals = population.signals(state, checkpoint * STEPS)
        before = copy.deepcopy(state)
        after, outcome = advance(state, signals, config, WARMUP)
        assert state == before, "advance changed the state it was given"
        assert advance(state, signals, config, WARMUP) == (after, outcome)
        # A resume at every checkpoint.
        resumed, again = advance(through_json(resumed), signals, config, WARMUP)
        assert (resumed, again) == (after, outcome)
        assert to_plain(resumed) == to_plain(after)
        # A replay from the log of signals alone.
        replay, derived = advance(replay, replayed(signals), config, WARMUP)
        assert [v.to_dict() for v in derived.verdicts] == [v.to_dict() for v in outcome.verdicts]
        assert (replay, derived) == (after, outcome)
        state = after
        for v in outcome.executed():
            population.carry_out(v, checkpoint * STEPS)


def test_the_sequences_of_these_properties_bring_every_action() -> None:
    seen: set[Action] = set()
    statuses: set[Status] = set()
    for seed in range(40):
        population, state = start(seed), PolicyState()
        config = eager(probation_checkpoints=3, merge_min_age_steps=0, max_experts_per_layer=6)
        for checkpoint in range(1, CHECKPOINTS + 1):
            signals = population.signals(state, checkpoint * STEPS)
            state, outcome = advance(state, signals, config, WARMUP)
            seen |= {v.candidate.action for v in outcome.executed()}
            statuses |= {v.status for v in outcome.verdicts}
            for v in outcome.executed():
                population.carry_out(v, checkpoint * STEPS)
    assert seen == set(Action)
    assert statuses == set(Status) - {Status.sham}


def test_a_router_that_is_still_deciding_does_not_starve() -> None:
    config = LifecycleConfig(lifecycle_eval_interval=1, spawn_patience=2, spawn_entropy_drop=0.01)
    state = PolicyState()
    held = []
    for checkpoint, ratio in enumerate((0.99, 0.985, 0.97, 0.969, 0.968, 0.967), start=1):
        s = healthy(step=100 * checkpoint, token_entropy_ratio=ratio)
        state, _ = advance(state, [s], config, warmup_steps=10_000)
        held.append(state.layers[0].counters.starvation)
    # The fall over two checkpoints: -, 0.005, 0.02, 0.016, 0.002, 0.002.
    assert held == [1, 2, 0, 0, 1, 2]
