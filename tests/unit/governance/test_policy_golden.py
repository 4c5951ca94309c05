"""Streams of snapshots against an independent reference, and against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from chronorun.core.state import from_plain, to_plain
from chronorun.governance import (
    ControlConfig,
    ControlState,
    compute_lens_scale,
    compute_topology_debt,
    update_control_state,
)


@dataclass
class Layer:
    utilization_shares: list[float]
    layer_id: int = 0

    @property
    def n_effective(self) -> float:
        return math.exp(-sum(s * math.log(s) for s in self.utilization_shares if s > 0))

    @property
    def top2_share(self) -> float:
        return sum(sorted(self.utilization_shares)[-2:])

    @property
    def dead_expert_count(self) -> int:
        return sum(s == 0 for s in self.utilization_shares)


def spread(top2: float, n: int = 8) -> Layer:
    return Layer([top2 / 2] * 2 + [(1 - top2) / (n - 2)] * (n - 2))


DEAD = Layer([0.0] + [1 / 7] * 7)
STREAMS = {
    "healthy": [spread(0.25)] * 12,
    "collapsing": [spread(0.25 + 0.06 * i) for i in range(13)],
    "recovering": [spread(0.97 - 0.06 * i) for i in range(13)],
    "one_dead_expert": [spread(0.25)] * 3 + [DEAD] * 12,
    "oscillating_with_harm": [spread(0.80 if i % 2 else 0.97) for i in range(24)],
}


def reference(stream: list[Layer], first_step: int = 50, every: int = 10) -> list[tuple]:
    """The contract's rules once more, in as few lines as they take."""
    p, back, mode, prev_top2, prev_scale = 0.0, 1.0, "anti_dominance", None, 0.0
    scores = {"anti_dominance": 1.0, "entropy_max": 1.0, "lift_tail": 1.0}
    rows = []
    for i, layer in enumerate(stream):
        n, step = len(layer.utilization_shares), first_step + i * every
        delta = 0.0 if prev_top2 is None else layer.top2_share - prev_top2
        if prev_scale > 0.01 and delta > 0.02:
            back, scores[mode] = back * 0.5, max(0.2, scores[mode] - 0.3)
        else:
            back += 0.2 * (1 - back)
            if prev_scale > 0.01:
                scores[mode] = min(1.0, scores[mode] + (0.1 if delta < -0.02 else 0.05))
        back = min(1.0, max(0.1, back))
        if scores[mode] < 0.25:
            mode = max((m for m in scores if m != mode), key=lambda m: scores[m])
        clip = lambda v: min(1.0, max(0.0, v))  # noqa: E731
        debt = (
            0.4 * clip((0.6 * n - layer.n_effective) / (0.6 * n))
            + 0.4 * clip((layer.top2_share - 0.75) / 0.25)
            + 0.2 * clip(layer.dead_expert_count / (n - 1))
        )
        p = 0.8 * p + 0.2 * debt
        limit = 0.02 if step < 100 else 0.5
        acts = back >= 0.15 and p >= 0.01
        prev_scale = min(limit, min(p, 0.5)) * back if acts else 0.0
        prev_top2 = layer.top2_share
        rows.append((debt, p, clip(p), back, prev_scale, mode))
    return rows


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_gives_the_reference_values(name: str) -> None:
    config, state = ControlConfig(), ControlState(0, 8)
    for i, (layer, want) in enumerate(zip(STREAMS[name], reference(STREAMS[name]), strict=True)):
        step = 50 + i * 10
        update_control_state(state, layer, config, step)
        scale = compute_lens_scale(state, config, step)
        got = (state.collapse_score, state.pressure, state.heat, state.harm_backoff, scale)
        assert got == pytest.approx(want[:5], abs=1e-12, rel=0), i
        assert state.active_mode == want[5], i
        assert scale == state.prev_scale


def test_harm_makes_the_mode_give_way() -> None:
    modes = [row[5] for row in reference(STREAMS["oscillating_with_harm"])]
    assert modes[0] == "anti_dominance"
    assert "entropy_max" in modes


def test_one_dead_expert_of_eight_by_hand() -> None:
    # n_effective 7 and top-2 share 2/7 owe nothing; one dead of eight owes 0.2 * 1/7.
    debt, parts = compute_topology_debt(DEAD, ControlConfig())
    assert parts == {"debt_neff": 0.0, "debt_top2": 0.0, "debt_dead": pytest.approx(1 / 7)}
    assert debt == pytest.approx(0.2 / 7, abs=1e-12)
    state = ControlState(0, 8)
    config = ControlConfig()
    for _ in range(3):
        update_control_state(state, DEAD, config, 200)
    # Pressure after three checkpoints: debt * (1 - 0.8**3) = 0.02857 * 0.488.
    assert state.pressure == pytest.approx(0.2 / 7 * 0.488, abs=1e-12)
    assert compute_lens_scale(state, config, 200) == pytest.approx(0.2 / 7 * 0.488, abs=1e-12)


def test_full_collapse_by_hand() -> None:
    layer = Layer([0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    debt, _parts = compute_topology_debt(layer, ControlConfig())
    # 0.4 * (4.8 - 2) / 4.8 + 0.4 * 1 + 0.2 * 6 / 7
    assert debt == pytest.approx(0.4 * 2.8 / 4.8 + 0.4 + 1.2 / 7, abs=1e-12)
    state = update_control_state(ControlState(0, 8), layer, ControlConfig(), 0)
    assert state.dominant == [0, 1]
    assert state.quota == {0: 1 / 8, 1: 1 / 8, **dict.fromkeys(range(2, 8), 1.0)}
    assert state.forgetting == pytest.approx(0.02 + 0.1 * 0.2 * debt, abs=1e-12)


def test_the_emergency_quota_ends_with_the_emergency() -> None:
    state = update_control_state(ControlState(0, 8), DEAD, ControlConfig(), 0)
    assert state.quota is not None
    update_control_state(state, spread(0.5), ControlConfig(), 10)
    assert (state.dominant, state.quota) == (None, None)


def test_the_population_may_grow_and_shrink() -> None:
    state = ControlState(0, 8)
    for n in (8, 9, 3):
        update_control_state(state, spread(0.9, n), ControlConfig(), 0)
        assert state.n_experts == n


def test_warm_up_limits_the_scale() -> None:
    state = ControlState(0, 8, pressure=0.4)
    assert compute_lens_scale(state, ControlConfig(), 99) == 0.02
    assert compute_lens_scale(state, ControlConfig(), 100) == 0.4


def test_each_reason_to_abstain_is_named() -> None:
    @dataclass
    class Prior:
        fragility: float = 1.0
        scale_cap: float | None = None
        intervention_helped_ema: float = -0.6

    config = ControlConfig()
    cases = [
        (ControlState(0, 8, pressure=0.4, harm_backoff=0.14), None, "harm_backoff"),
        (ControlState(0, 8, pressure=0.009), None, "no_pressure"),
        (ControlState(0, 8, pressure=0.4), Prior(), "prior_intervention_hurts"),
    ]
    for state, prior, reason in cases:
        assert compute_lens_scale(state, config, 200, prior) == 0.0
        assert (state.abstain, state.abstain_reason) == (True, reason)


def test_a_prior_scales_and_caps() -> None:
    @dataclass
    class Prior:
        fragility: float = 0.5
        scale_cap: float | None = 0.3
        intervention_helped_ema: float = 0.0

    state = ControlState(0, 8, pressure=0.4)
    assert compute_lens_scale(state, ControlConfig(), 200, Prior()) == pytest.approx(0.15)


def test_a_state_survives_its_plain_form_exactly() -> None:
    state = ControlState(0, 8)
    for layer in STREAMS["one_dead_expert"]:
        update_control_state(state, layer, ControlConfig(), 10)
    assert from_plain(ControlState, to_plain(state)) == state
