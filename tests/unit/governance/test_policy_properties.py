"""What holds for every stream of snapshots, populations that change included."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from chronorun.governance import (
    ControlConfig,
    ControlState,
    LayerPriors,
    compute_lens_scale,
    compute_topology_debt,
    update_control_state,
)
from chronorun.governance.policy import MODES


def layer_of(counts: list[int]) -> Any:
    total = sum(counts)
    shares = [count / total if total else 0.0 for count in counts]
    entropy = -sum(s * math.log(s) for s in shares if s > 0)
    return SimpleNamespace(
        layer_id=0,
        utilization_shares=shares,
        n_effective=math.exp(entropy),
        top2_share=sum(sorted(shares)[-2:]),
        dead_expert_count=shares.count(0.0),
    )


layers = st.lists(st.integers(0, 1000), min_size=1, max_size=12).map(layer_of)
priors = st.none() | st.builds(
    LayerPriors,
    st.just(0),
    fragility=st.floats(0.5, 2.0),
    scale_cap=st.none() | st.floats(0.0, 1.0),
    intervention_helped_ema=st.floats(-1.0, 1.0),
)


@given(layer=layers)
def test_debt_and_its_components_lie_between_zero_and_one(layer: Any) -> None:
    debt, parts = compute_topology_debt(layer, ControlConfig())
    assert 0.0 <= debt <= 1.0
    assert set(parts) == {"debt_neff", "debt_top2", "debt_dead"}
    assert all(0.0 <= part <= 1.0 for part in parts.values())


@given(n=st.integers(3, 64))
def test_even_use_of_three_experts_or_more_owes_nothing(n: int) -> None:
    debt, _parts = compute_topology_debt(layer_of([7] * n), ControlConfig())
    assert debt == 0.0


@given(stream=st.lists(layers, max_size=20), prior=priors)
def test_a_state_stays_within_its_bounds(stream: list[Any], prior: LayerPriors | None) -> None:
    config, state = ControlConfig(), ControlState(0, 8)
    for step, layer in enumerate(stream):
        update_control_state(state, layer, config, 20 * step, prior)
        scale = compute_lens_scale(state, config, 20 * step, prior)
        assert 0.0 <= state.pressure <= 1.0
        assert 0.0 <= state.heat <= 1.0
        assert 0.02 <= state.forgetting <= 0.12
        assert 0.1 <= state.harm_backoff <= 1.0
        assert -1.0 <= state.intervention_helped_ema <= 1.0
        assert all(0.2 <= score <= 1.0 for score in state.mode_scores.values())
        assert state.active_mode in MODES
        limit = config.lens_warmup_scale if 20 * step < 100 else config.lens_scale_max
        assert 0.0 <= scale <= limit * (prior.fragility if prior else 1.0)
        assert (scale == 0.0) or not state.abstain
        assert (state.abstain_reason is None) is not state.abstain
        assert state.n_experts == len(layer.utilization_shares)
        assert (state.quota is None) is (state.dominant is None)


@given(before=st.integers(2, 16), after=st.integers(2, 16))
def test_an_edit_of_the_population_is_neither_harm_nor_help(before: int, after: int) -> None:
    config = ControlConfig()
    state = update_control_state(ControlState(0, before), layer_of([5] * before), config, 0)
    state.prev_scale, state.harm_backoff = 0.3, 0.5
    update_control_state(state, layer_of([5] * after), config, 20)
    assert state.harm_backoff == 0.6
    assert state.intervention_helped_ema == 0.0


def test_harm_is_judged_again_from_the_second_snapshot_after_an_edit() -> None:
    config, state = ControlConfig(), ControlState(0, 8, prev_top2=0.25)
    update_control_state(state, layer_of([5] * 4), config, 0)
    state.prev_scale = 0.3
    update_control_state(state, layer_of([9, 5, 3, 3]), config, 20)
    assert state.harm_backoff == 0.5


def test_harm_and_help_by_hand() -> None:
    config = ControlConfig()
    state = ControlState(0, 4, prev_top2=0.5, prev_scale=0.3)
    worse, better = layer_of([40, 20, 20, 20]), layer_of([25, 25, 25, 25])
    update_control_state(state, worse, config, 0)
    assert (state.harm_backoff, state.mode_scores["anti_dominance"]) == (0.5, 0.7)
    assert state.intervention_helped_ema == -0.2
    state.prev_scale = 0.3
    update_control_state(state, better, config, 20)
    # 0.5 + 0.2 * 0.5; 0.7 + 0.1; 0.8 * -0.2 + 0.2
    assert state.harm_backoff == 0.6
    assert state.mode_scores["anti_dominance"] == pytest.approx(0.8, abs=1e-12)
    assert state.intervention_helped_ema == pytest.approx(0.04, abs=1e-12)
