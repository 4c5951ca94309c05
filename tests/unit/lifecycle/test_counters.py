"""Patience and the conditions it counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from chronorun.config.lifecycle import LifecycleConfig, TwoModeUse
from chronorun.lifecycle.decide.counters import (
    LayerCounters,
    converged_pairs,
    has_converged,
    is_hog,
    is_overloaded,
    is_recent_attempt,
    is_saturated,
    is_starving,
    is_suspect,
    is_undecided,
    pair_key,
    spawn_overflow,
    update_counters,
)
from chronorun.lifecycle.decide.signals import (
    ExpertSignals,
    LayerSignals,
    PairSignals,
    check_signals,
)
from chronorun.lifecycle.experts.states import ExpertState

S = ExpertState
CONFIG = LifecycleConfig()


def expert(e: int, share: float = 0.25, state: ExpertState = S.active, **more: Any) -> Any:
    return ExpertSignals(expert_id=f"L0_E{e}", state=state, born_step=0, share=share, **more)


def layer(*experts: ExpertSignals, **more: Any) -> LayerSignals:
    plain: dict[str, Any] = {
        "step": 100,
        "checkpoint": 10,
        "layer_id": 0,
        "top_k": 1,
        "max_top_k": 1,
        "dispatched": 1000,
        "experts": list(experts),
        "layer_entropy": 1.0,
        "layer_neff": 3.0,
        "topology_debt": 0.0,
        "unresolved_debt": 0.0,
        "token_entropy_ratio": 0.7,
        "lens_scale": 0.0,
        "next_expert_id": "L0_E99",
    }
    signals = LayerSignals(**plain | more)
    check_signals(signals)
    return signals


def even(n: int, **more: Any) -> LayerSignals:
    return layer(*(expert(e, 1 / n) for e in range(n)), **more)


ALIKE = PairSignals("L0_E0", "L0_E1", cosine=0.96, overlap=0.9)

# Per counter: a layer with its condition, and where its count is read.
CONDITIONS: dict[str, tuple[LayerSignals, Any]] = {
    "starvation": (even(4, token_entropy_ratio=0.99), lambda c: c.starvation),
    "dormancy": (
        layer(expert(0, 0.0, S.dormant), *(expert(e, 1 / 3) for e in (1, 2, 3))),
        lambda c: c.dormancy.get("L0_E0", 0),
    ),
    "overload": (
        layer(expert(0, 0.55), *(expert(e, 0.15) for e in (1, 2, 3))),
        lambda c: c.overload.get("L0_E0", 0),
    ),
    "convergence": (even(4, pairs=[ALIKE]), lambda c: c.convergence.get("L0_E0|L0_E1", 0)),
    "suspicion": (
        layer(expert(0, weight_deviation=9.0), *(expert(e) for e in (1, 2, 3))),
        lambda c: c.suspicion.get("L0_E0", 0),
    ),
}
HEALTHY = even(4)


# --- patience


@pytest.mark.parametrize("name", CONDITIONS)
@given(windows=st.lists(st.sampled_from(["held", "not held", "no tokens"]), max_size=15))
def test_patience_counts_consecutive_checkpoints(name: str, windows: list[str]) -> None:
    held, read = CONDITIONS[name]
    counters, run = LayerCounters(), 0
    for window in windows:
        signals = {"held": held, "not held": HEALTHY, "no tokens": replace(held, dispatched=0)}
        counters = update_counters(counters, signals[window], CONFIG)
        run = {"held": run + 1, "not held": 0, "no tokens": run}[window]
        assert read(counters) == run


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_healthy_layer_counts_nothing_and_a_condition_counts_itself_only(name: str) -> None:
    assert update_counters(LayerCounters(), HEALTHY, CONFIG) == LayerCounters()
    counters = update_counters(LayerCounters(), CONDITIONS[name][0], CONFIG)
    assert {n for n, (_layer, read) in CONDITIONS.items() if read(counters)} == {name}


def test_a_window_without_tokens_holds_every_counter() -> None:
    counters = LayerCounters(
        starvation=3,
        dormancy={"L0_E0": 4},
        since_lens={"L0_E0": 2},
        lens_deferrals={"L0_E0": 1},
        overload={"L0_E1": 2},
        convergence={"L0_E1|L0_E2": 6},
        suspicion={"L0_E3": 1},
    )
    silent = even(4, dispatched=0, lens_scale=1.0)
    assert update_counters(counters, silent, CONFIG) == counters


def test_counting_on_leaves_the_old_counters_as_they_were() -> None:
    before = update_counters(LayerCounters(), CONDITIONS["dormancy"][0], CONFIG)
    update_counters(before, CONDITIONS["dormancy"][0], CONFIG)
    assert before.dormancy == {"L0_E0": 1}


def test_each_expert_has_its_own_count_and_one_that_left_has_none() -> None:
    dead = [expert(e, 0.0, S.dormant) for e in (0, 1)]
    rest = [expert(e, 0.5) for e in (2, 3)]
    counters = update_counters(LayerCounters(), layer(dead[0], *rest), CONFIG)
    counters = update_counters(counters, layer(*dead, *rest), CONFIG)
    assert counters.dormancy == {"L0_E0": 2, "L0_E1": 1}
    counters = update_counters(counters, layer(dead[1], *rest), CONFIG)
    assert counters.dormancy == {"L0_E1": 2}


# --- the lens gets its chance, once


def dead_layer(lens_scale: float) -> LayerSignals:
    dead = expert(0, 0.0, S.dormant)
    return layer(dead, expert(1, 0.5), expert(2, 0.5), lens_scale=lens_scale)


def checkpoints_to_prune(lens: list[float], config: LifecycleConfig, **more: Any) -> int | None:
    """The checkpoint of a dormancy at which its prune is due and no longer deferred."""
    counters = LayerCounters()
    for checkpoint, scale in enumerate(lens, start=1):
        counters = update_counters(counters, dead_layer(scale), config, **more)
        assert counters.dormancy["L0_E0"] == checkpoint
        recent = is_recent_attempt(counters.since_lens.get("L0_E0"), config)
        spent = counters.lens_deferrals.get("L0_E0", 0) > config.prune_lens_grace
        due = checkpoint >= more.get("prune_patience", config.prune_patience)
        if due and (spent or not recent):
            return checkpoint
    return None


@pytest.mark.parametrize("grace", [0, 1, 5])
def test_a_lens_that_never_stops_acting_defers_a_prune_by_its_grace_once(grace: int) -> None:
    config = LifecycleConfig(prune_patience=4, prune_lens_grace=grace)
    assert checkpoints_to_prune([1.0] * 30, config) == 4 + grace


def test_a_lens_that_never_acted_defers_nothing() -> None:
    assert checkpoints_to_prune([0.0] * 30, LifecycleConfig(prune_patience=4)) == 4


@pytest.mark.parametrize(
    ("attempt", "prune"),
    [(1, 10), (5, 10), (6, 11), (9, 14), (10, 15)],
    ids=["long ago", "just over", "one left", "the checkpoint before", "the same checkpoint"],
)
def test_one_attempt_is_awaited_for_the_grace_from_when_it_was_made(
    attempt: int, prune: int
) -> None:
    lens = [1.0 if checkpoint == attempt else 0.0 for checkpoint in range(1, 31)]
    assert checkpoints_to_prune(lens, CONFIG) == prune


def test_a_later_attempt_is_awaited_anew() -> None:
    lens = [1.0 if checkpoint in (2, 9) else 0.0 for checkpoint in range(1, 31)]
    assert checkpoints_to_prune(lens, CONFIG) == 14


@given(
    attempts=st.lists(st.booleans(), min_size=40, max_size=40),
    patience=st.integers(1, 12),
    grace=st.integers(0, 8),
)
def test_no_pattern_of_attempts_defers_a_prune_by_more_than_the_grace(
    attempts: list[bool], patience: int, grace: int
) -> None:
    config = LifecycleConfig(prune_patience=patience, prune_lens_grace=grace)
    prune = checkpoints_to_prune([float(a) for a in attempts], config)
    assert prune is not None
    assert patience <= prune <= patience + grace


def test_the_grace_is_spent_only_from_the_patience_in_force() -> None:
    config = LifecycleConfig(prune_patience=4, prune_lens_grace=2)
    assert checkpoints_to_prune([1.0] * 30, config, prune_patience=8) == 10


def test_a_new_dormancy_gets_a_new_grace() -> None:
    config = LifecycleConfig(prune_patience=1, prune_lens_grace=2)
    counters = LayerCounters()
    for _ in range(4):
        counters = update_counters(counters, dead_layer(1.0), config)
    assert counters.lens_deferrals["L0_E0"] > config.prune_lens_grace
    counters = update_counters(counters, even(3, lens_scale=1.0), config)
    assert (counters.lens_deferrals, counters.since_lens) == ({}, {})
    counters = update_counters(counters, dead_layer(1.0), config)
    assert counters.lens_deferrals == {"L0_E0": 1}


def test_an_attempt_before_the_dormancy_is_none_of_its() -> None:
    counters = update_counters(LayerCounters(), even(3, lens_scale=1.0), CONFIG)
    counters = update_counters(counters, dead_layer(0.0), CONFIG)
    assert counters.since_lens == {}


# --- starvation


@pytest.mark.parametrize(("ratio", "undecided"), [(0.949, False), (0.95, True), (1.0, True)])
def test_a_router_is_undecided_from_its_threshold(ratio: float, undecided: bool) -> None:
    signals = even(4, token_entropy_ratio=ratio)
    assert is_undecided(signals, CONFIG) is undecided
    assert is_starving(signals, CONFIG) is undecided


def test_even_load_is_no_starvation_while_the_router_decides() -> None:
    assert not is_starving(even(4, layer_entropy=1.386, layer_neff=4.0), CONFIG)


@pytest.mark.parametrize("n", [0, 1])
def test_a_router_without_a_choice_is_not_undecided(n: int) -> None:
    assert not is_undecided(even(n, token_entropy_ratio=1.0), CONFIG)


def test_a_pair_of_twins_alone_is_no_choice() -> None:
    pair = layer(expert(0, 0.5), expert(1, 0.5, twin_of="L0_E0"), token_entropy_ratio=1.0)
    assert not is_undecided(pair, CONFIG)


@pytest.mark.parametrize(("overflow", "saturated"), [(0.06, True), (0.05, True), (0.04, False)])
def test_overflow_adds_up_over_the_experts(overflow: float, saturated: bool) -> None:
    signals = layer(*(expert(e, 0.25, overflow=overflow) for e in range(4)))
    assert is_saturated(signals, CONFIG) is saturated
    assert is_starving(signals, CONFIG) is saturated


def test_a_layer_with_an_idle_expert_is_not_saturated() -> None:
    full = [expert(e, 1 / 3, overflow=0.2) for e in range(3)]
    assert is_saturated(layer(*full), CONFIG)
    assert not is_saturated(layer(*full, expert(3, 0.0, S.dormant)), CONFIG)


def test_what_a_split_would_take_care_of_does_not_saturate_a_layer() -> None:
    hog = expert(0, 0.55, overflow=0.3)
    signals = layer(hog, *(expert(e, 0.15, overflow=0.01) for e in (1, 2, 3)))
    assert spawn_overflow(signals, CONFIG) == pytest.approx(0.03)
    assert not is_saturated(signals, CONFIG)
    no_split = LifecycleConfig(split_enabled=False)
    assert spawn_overflow(signals, no_split) == pytest.approx(0.33)
    assert is_saturated(signals, no_split)


# --- overload


@pytest.mark.parametrize(
    ("n", "share", "ratio", "hog"),
    [
        (4, 0.40, None, False),
        (4, 0.41, None, True),
        (3, 0.41, None, True),
        (2, 0.50, None, False),
        (2, 0.59, None, False),
        (2, 0.60, None, True),
        (8, 0.19, 1.5, True),
        (8, 0.1875, 1.5, False),
        (8, 0.19, None, False),
        (2, 0.59, 1.1, False),
    ],
)
def test_a_hog_exceeds_the_share_and_in_a_layer_of_two_the_even_share_by_far(
    n: int, share: float, ratio: float | None, hog: bool
) -> None:
    config = LifecycleConfig(split_share_ratio=ratio)
    rest = [expert(e, (1 - share) / (n - 1)) for e in range(1, n)]
    signals = layer(expert(0, share), *rest)
    assert is_hog(signals.experts[0], signals, config) is hog
    counted = update_counters(LayerCounters(), signals, config).overload
    assert counted == ({"L0_E0": 1} if hog else {})


def test_twins_count_once_in_the_rule_for_layers_of_two() -> None:
    members = [expert(0, 0.55), expert(1, 0.2), expert(2, 0.25)]
    assert is_hog(members[0], layer(*members), CONFIG)
    twins = layer(members[0], members[1], replace(members[2], twin_of="L0_E1"))
    assert not is_hog(members[0], twins, CONFIG)


UNSETTLED: dict[str, dict[str, Any]] = {
    "cooling": {"state": S.cooling},
    "dormant": {"state": S.dormant},
    "pending_prune": {"state": S.pending_prune},
    "ramping": {"ramping": True},
    "twin": {"twin_of": "L0_E3"},
}


@pytest.mark.parametrize("kind", UNSETTLED)
def test_an_expert_that_is_not_settled_is_not_overloaded(kind: str) -> None:
    hog = replace(expert(0, 0.7), **UNSETTLED[kind])
    signals = layer(hog, *(expert(e, 0.1) for e in (1, 2, 3)))
    assert update_counters(LayerCounters(), signals, CONFIG).overload == {}


def test_the_parent_of_twins_is_not_overloaded_either() -> None:
    signals = layer(expert(0, 0.7), expert(1, 0.1, twin_of="L0_E0"), expert(2, 0.2))
    assert update_counters(LayerCounters(), signals, CONFIG).overload == {}


@pytest.mark.parametrize(
    ("use", "share", "score", "overloaded"),
    [
        (TwoModeUse.off, 0.5, None, True),
        (TwoModeUse.off, 0.3, 0.9, False),
        (TwoModeUse.require, 0.5, None, False),
        (TwoModeUse.require, 0.5, 0.24, False),
        (TwoModeUse.require, 0.5, 0.25, True),
        (TwoModeUse.require, 0.3, 0.9, False),
        (TwoModeUse.add, 0.3, 0.25, True),
        (TwoModeUse.add, 0.3, 0.24, False),
        (TwoModeUse.add, 0.5, None, True),
        (TwoModeUse.add, 0.0, 0.9, False),
    ],
)
def test_two_token_populations_can_be_required_or_added(
    use: TwoModeUse, share: float, score: float | None, overloaded: bool
) -> None:
    wide = expert(0, share, two_mode_score=score)
    signals = layer(wide, *(expert(e, (1 - share) / 3) for e in (1, 2, 3)))
    assert is_overloaded(wide, signals, LifecycleConfig(split_two_mode=use)) is overloaded


# --- convergence


@pytest.mark.parametrize(
    ("cosine", "overlap", "converged"),
    [(0.951, 0.801, True), (0.95, 0.9, False), (0.99, 0.8, False), (float("nan"), 0.9, False)],
)
def test_both_thresholds_of_a_merge_must_be_exceeded(
    cosine: float, overlap: float, converged: bool
) -> None:
    assert has_converged(PairSignals("a", "b", cosine, overlap), CONFIG) is converged


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize("kind", UNSETTLED)
def test_a_pair_with_an_unsettled_member_is_not_eligible(kind: str, member: int) -> None:
    members = [expert(e) for e in range(4)]
    assert converged_pairs(layer(*members, pairs=[ALIKE]), CONFIG, ()) == ["L0_E0|L0_E1"]
    members[member] = replace(members[member], **UNSETTLED[kind])
    signals = layer(*members, pairs=[ALIKE])
    assert converged_pairs(signals, CONFIG, ()) == []
    before = LayerCounters(convergence={"L0_E0|L0_E1": 7})
    assert update_counters(before, signals, CONFIG).convergence == {}


@pytest.mark.parametrize("member", ["L0_E0", "L0_E1"])
def test_a_pair_with_a_member_whose_twin_it_parents_is_not_eligible(member: str) -> None:
    twin = expert(3, twin_of=member)
    assert (
        converged_pairs(layer(*(expert(e) for e in range(3)), twin, pairs=[ALIKE]), CONFIG, ())
        == []
    )


@pytest.mark.parametrize("member", ["L0_E0", "L0_E1"])
def test_a_pair_with_a_member_on_probation_is_not_eligible(member: str) -> None:
    signals = even(4, pairs=[ALIKE])
    before = LayerCounters(convergence={"L0_E0|L0_E1": 7})
    assert converged_pairs(signals, CONFIG, [member]) == []
    assert update_counters(before, signals, CONFIG, [member]).convergence == {}
    assert update_counters(before, signals, CONFIG, ["L0_E2"]).convergence == {"L0_E0|L0_E1": 8}


def test_a_pair_keeps_its_count_when_its_members_change_slots() -> None:
    counters = update_counters(LayerCounters(), even(4, pairs=[ALIKE]), CONFIG)
    swapped = layer(
        *(expert(e) for e in (1, 0, 2, 3)), pairs=[PairSignals("L0_E1", "L0_E0", 0.96, 0.9)]
    )
    assert update_counters(counters, swapped, CONFIG).convergence == {"L0_E0|L0_E1": 2}


def test_a_pair_is_named_by_age() -> None:
    assert pair_key("L0_E10", "L0_E9") == pair_key("L0_E9", "L0_E10") == "L0_E9|L0_E10"
    keys = [pair_key(f"L0_E{e}", "L0_E0") for e in (1, 9, 10, 11)]
    assert all(first != second for first, second in pairwise(keys))


# --- suspicion


@pytest.mark.parametrize(
    ("gain", "deviation", "suspect"),
    [
        (None, None, False),
        (0.002, None, False),
        (0.0021, None, True),
        (-0.5, 8.0, False),
        (None, 8.1, True),
        (0.0021, 0.0, True),
    ],
)
def test_an_expert_is_suspect_beyond_either_limit(
    gain: float | None, deviation: float | None, suspect: bool
) -> None:
    odd = expert(0, leave_one_out_gain=gain, weight_deviation=deviation)
    assert is_suspect(odd, CONFIG) is suspect


# --- signals


def test_groups_are_the_live_experts_that_stay_twins_counted_once() -> None:
    signals = layer(
        expert(0), expert(1, state=S.cooling), expert(2, twin_of="L0_E0"),
        expert(3, 0.0, S.dormant), expert(4, 0.0, S.pending_prune), pending_spawns=2,
    )  # fmt: skip
    assert [e.expert_id for e in signals.groups] == ["L0_E0", "L0_E1", "L0_E3"]
    assert signals.n_experts == 7
    assert signals.twins() == {"L0_E0", "L0_E2"}
    assert signals.settled() == []
    assert signals.expert("L0_E3") is signals.experts[3]
    assert signals.expert("L0_E9") is None


def test_barred_experts_are_not_settled() -> None:
    assert [e.expert_id for e in even(3).settled(["L0_E1"])] == ["L0_E0", "L0_E2"]


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        (lambda: layer(expert(0), expert(0)), "layer 0: an expert is listed twice"),
        (lambda: layer(expert(0, state=S.archived)), "layer 0: not live"),
        (lambda: layer(expert(0, state=S.pending_spawn)), "layer 0: not live"),
        (lambda: layer(expert(0, float("nan"))), "layer 0: not finite"),
        (lambda: layer(expert(0), unresolved_debt=float("inf")), "layer 0: not finite"),
        (lambda: layer(expert(0), token_entropy_ratio=float("nan")), "layer 0: not finite"),
    ],
)
def test_signals_that_cannot_come_from_one_layer_are_refused(signals: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"^{message}"):
        signals()
