"""From a snapshot to what the policies read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from unit.lifecycle.small_run import SmallRun, batch

from chronorun.config.governance import ControlConfig
from chronorun.config.lifecycle import LifecycleConfig, TwoModeUse
from chronorun.config.observing import TelemetryConfig
from chronorun.governance.policy import compute_topology_debt
from chronorun.lifecycle.decide.derived import DEVIATION_ENTRIES, weight_deviations
from chronorun.lifecycle.decide.signals import ArchiveMatch, LayerSignals
from chronorun.lifecycle.experts.basins import BasinEntry
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.observe.reader import (
    LayerInput,
    SignalReader,
)
from chronorun.telemetry import RoutingRecorder
from chronorun.telemetry.snapshots import LayerSnapshot

CONTROL = ControlConfig()


def reader(run: SmallRun, **options: object) -> SignalReader:
    config = LifecycleConfig(**options)  # type: ignore[arg-type]
    return SignalReader(run.layers, run.registry, run.tap, config, CONTROL, 2)


def look(
    run: SmallRun, shares: Sequence[float], *, of: SignalReader | None = None, **extra: object
) -> LayerSignals:
    of = of or reader(run)
    snapshot = LayerSnapshot.from_shares(0, np.array(shares), token_entropy_nats=0.5)
    weights = of.watches[0].look(run.registry.slots(0))
    x = LayerInput(20, 4, snapshot, None, None, weights)
    x = replace(x, **extra)  # type: ignore[arg-type]
    for record, entry in zip(run.registry.live(0), of.basins(x), strict=True):
        record.basin.append(entry)
    return of.read(x)


def debt(shares: Sequence[float]) -> float:
    return compute_topology_debt(LayerSnapshot.from_shares(0, np.array(shares)), CONTROL)[0]


@pytest.fixture
def run() -> SmallRun:
    run = SmallRun()
    run.train(4)
    return run


def test_without_cooling_or_ramping_experts_all_debt_is_unresolved(run: SmallRun) -> None:
    signals = look(run, [0.7, 0.2, 0.1, 0.0])
    assert signals.topology_debt == debt([0.7, 0.2, 0.1, 0.0]) > 0.0
    assert signals.unresolved_debt == pytest.approx(signals.topology_debt)


def test_newcomers_have_no_part_in_unresolved_debt(run: SmallRun) -> None:
    child = run.spawn(0, ["L0_E0"]).expert_id
    assert run.registry[child].state is ExpertState.cooling
    shares = [0.4, 0.3, 0.2, 0.1, 0.0]
    assert look(run, shares).unresolved_debt == pytest.approx(debt([0.4, 0.3, 0.2, 0.1]))
    shares = [0.2, 0.2, 0.1, 0.0, 0.5]
    unresolved = look(run, shares, ramping=["L0_E3"]).unresolved_debt
    assert unresolved == pytest.approx(debt([0.4, 0.4, 0.2]))
    assert look(run, [0.0, 0.0, 0.0, 0.0, 1.0]).unresolved_debt == 0.0


def test_of_two_experts_the_two_largest_are_no_debt() -> None:
    run = SmallRun([2, 4])
    run.train(2)
    shares = [0.5, 0.5]
    signals = look(run, shares)
    assert (
        compute_topology_debt(LayerSnapshot.from_shares(0, np.array(shares)), CONTROL)[1][
            "debt_top2"
        ]
        > 0.0
    )
    assert signals.unresolved_debt == pytest.approx(0.0, abs=1e-9)
    assert signals.topology_debt > 0.0


def test_entropy_per_token_is_over_the_live_groups(run: SmallRun) -> None:
    assert look(run, [0.25] * 4).token_entropy_ratio == pytest.approx(0.5 / math.log(4))
    run.split("L0_E1")
    signals = look(run, [0.25, 0.15, 0.25, 0.25, 0.1])
    assert signals.token_entropy_ratio == pytest.approx(0.5 / math.log(4))
    assert (len(signals.groups), len(signals.experts)) == (4, 5)
    child = signals.expert("L0_E4")
    assert child is not None
    assert (child.twin_of, child.parent_id) == ("L0_E1", "L0_E1")


def test_a_layer_without_tokens_says_nothing(run: SmallRun) -> None:
    signals = look(run, [0.0] * 4)
    assert signals.dispatched == 0
    assert look(run, [1.0, 0.0, 0.0, 0.0]).dispatched > 0


def test_the_cluster_opens_with_the_most_loaded_expert_that_is_settled(run: SmallRun) -> None:
    assert look(run, [0.1, 0.2, 0.5, 0.2]).cluster[0] == "L0_E2"
    assert look(run, [0.1, 0.2, 0.5, 0.2], ramping=["L0_E2"]).cluster[0] == "L0_E1"
    for name in run.registry.slots(0):
        run.registry.transition(name, ExpertState.dormant, 1, "no share")
    assert look(run, [0.1, 0.2, 0.5, 0.2]).cluster == []


def test_two_populations_are_looked_for_where_asked(run: SmallRun) -> None:
    scores = [e.two_mode_score for e in look(run, [0.25] * 4).experts]
    assert scores == [None] * 4
    scores = [e.two_mode_score for e in look(run, [0.25] * 4, overloaded=["L0_E2"]).experts]
    assert [s is None for s in scores] == [True, True, False, True]
    every = reader(run, split_two_mode=TwoModeUse.add)
    assert None not in [e.two_mode_score for e in look(run, [0.25] * 4, of=every).experts]


def test_what_the_probe_and_the_gates_said_is_passed_on(run: SmallRun) -> None:
    signals = look(run, [0.25] * 4, gains={"L0_E1": 0.125}, pending=1)
    assert [e.leave_one_out_gain for e in signals.experts] == [None, 0.125, None, None]
    assert [e.contribution for e in signals.experts] == run.tap.contributions(0)
    assert signals.pending_spawns == 1
    assert signals.next_expert_id == "L0_E4"
    assert (signals.top_k, signals.max_top_k) == (2, 2)


def test_an_archived_expert_is_matched_by_the_tokens_that_starve_now(run: SmallRun) -> None:
    recorder = RoutingRecorder([4, 4], 2, 4, "cpu", TelemetryConfig(), 32)
    run.tap._types_T = recorder.token_types_T
    tokens = batch(run.step)
    recorder.begin_step(tokens[:, :-1])
    for layer in run.layers:
        observe = layer.observer
        assert observe is not None
        layer.observer = lambda i, r, observe=observe: (observe(i, r), recorder.observe(i, r))[0]
    run.train()
    recorder.end_step(run.step, None)
    window = recorder.flush().layers[0]
    starved_T = run.tap.starved(0, None)
    counts = run.tap.type_counts(0, starved_T, window.token_types.shape[1])
    assert counts is not None
    of = reader(run, spawn_entropy_threshold=0.1)
    shares = (window.counts.sum(0) / window.counts.sum()).tolist()
    assert look(run, shares, of=of, window=window).archive_matches == []
    # As if it had got just the tokens that starve.
    known = run.registry["L0_E3"].basin
    known.append(
        replace(known.entries[-1], share=0.2, token_type_dist=np.array(counts) / sum(counts))
    )
    run.registry.transition("L0_E3", ExpertState.dormant, 1, "no share")
    run.registry.transition("L0_E3", ExpertState.pending_prune, 1, "dead")
    run.registry.remove("L0_E3", 1)
    matches = of._matches(0, starved_T, window)
    assert matches == [ArchiveMatch("L0_E3", pytest.approx(1.0))]
    run.registry["L0_E3"].merged_into = "L0_E2"
    assert of._matches(0, starved_T, window) == []


# ---- deviations of weight changes ------------------------------------------------------------


def deviation(deltas: Sequence[float], shares: Sequence[float] | None = None) -> float | None:
    record = Registry([1])["L0_E0"]
    nothing = np.zeros(2)
    for i, delta in enumerate(deltas):
        share = 1.0 if shares is None else shares[i]
        entry = BasinEntry(i, i, share, 0.0, nothing, nothing, {}, 1.0, delta)
        record.basin.append(entry)
    return weight_deviations([record])[0]


def test_a_deviation_needs_a_history() -> None:
    assert deviation([1.0] * DEVIATION_ENTRIES) is None
    assert deviation([1.0] * (DEVIATION_ENTRIES + 1)) == 0.0
    # Checkpoints without tokens are no history: nothing moved then.
    assert deviation([1.0] * 12, [0.0] * 8 + [1.0] * 4) is None


def test_a_deviation_is_counted_in_mad_of_those_before() -> None:
    deltas = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert deviation([*deltas, 25.0]) == pytest.approx((25.0 - 5.0) / 2.0)
    assert deviation([*deltas, 1.0]) == pytest.approx(-2.0)


def test_experts_of_different_age_do_not_meet() -> None:
    rng = np.random.default_rng(0)
    records = Registry([6]).live(0)
    for record, age in zip(records, (4, 9, 20, 20, 31, 10), strict=True):
        for i, delta in enumerate(rng.random(age).tolist()):
            entry = BasinEntry(i, i, 1.0, 0.0, np.zeros(2), np.zeros(2), {}, 1.0, delta)
            record.basin.append(entry)
    alone = [weight_deviations([record])[0] for record in records]
    assert weight_deviations(records) == alone
    assert [found is None for found in alone] == [True, False, False, False, False, False]


def test_a_steady_expert_is_no_suspect_for_a_blip() -> None:
    assert deviation([1.0] * 10 + [1.5]) == pytest.approx(5.0)
    assert deviation([0.0] * 10 + [1.5]) is None


def test_a_planted_jump_is_seen_in_the_weights(run: SmallRun) -> None:
    of = reader(run)
    for _ in range(DEVIATION_ENTRIES + 2):
        run.train()
        signals = look(run, [0.25] * 4, of=of)
    quiet = [e.weight_deviation for e in signals.experts]
    with torch.no_grad():
        run.layers[0].experts.w1[2] += 3.0
    jumped = [e.weight_deviation for e in look(run, [0.25] * 4, of=of).experts]
    assert jumped[2] is not None
    assert jumped[2] > 8.0
    assert all(q is not None and q < 8.0 for q in quiet)
    assert all(j is not None and j < 8.0 for i, j in enumerate(jumped) if i != 2)
