"""What a window says of assignments asked for, dropped and overflowing, against plain loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.observing import TelemetryConfig
from chronorun.model import GPT, MoELayer, Routing
from chronorun.telemetry import LayerWindow, RoutingRecorder, WindowStats

B, S, E, VOCAB = 2, 8, 4, 50
CONFIG = TelemetryConfig(token_types=64, position_buckets=4)


def make_recorder(experts: list[int] | None = None, window: int = 4) -> RoutingRecorder:
    return RoutingRecorder([E] if experts is None else experts, 2, window, "cpu", CONFIG, VOCAB)


def make_routing(top_k: int, drops: bool, seed: int, experts: int = E) -> Routing:
    g = torch.Generator().manual_seed(seed)
    # Uneven on purpose: the first expert overflows.
    logits = torch.randn(B * S, experts, generator=g) + torch.arange(experts, 0, -1)
    index = logits.topk(top_k, dim=-1).indices.t().contiguous()
    kept = torch.rand(index.shape, generator=g) < 0.7 if drops else None
    chosen = index.flatten() if kept is None else index[kept]
    counts = torch.bincount(chosen, minlength=experts)
    probs = torch.softmax(logits, dim=-1)
    return Routing(torch.zeros(B * S, 3), logits, probs, index, torch.ones(()), kept, counts)


def play(recorder: RoutingRecorder, step: int, *routings: Routing) -> None:
    """One step; several routings of layer 0 are several forwards of it."""
    for routing in routings:
        recorder.begin_step(torch.zeros(B, S, dtype=torch.int64))
        recorder.observe(0, routing)
    recorder.end_step(step, torch.tensor(float(step)))


def overflow_of_a_step(routings: list[Routing]) -> list[float]:
    """Share of the step's assignments that each expert lost, or holds beyond its fair share."""
    asked = sum(r.expert_index_KT.numel() for r in routings)
    over = [0.0] * E
    for e in range(E):
        wanted = sum(int((r.expert_index_KT == e).sum()) for r in routings)
        got = sum(int(r.tokens_per_expert_E[e]) for r in routings)
        capped = any(r.kept_KT is not None for r in routings)
        over[e] = wanted - got if capped else max(0.0, got - 1.25 * asked / E)
    return [x / asked for x in over]


def assert_equal(one: WindowStats, two: WindowStats) -> None:
    assert (one.steps, one.losses, one.tokens) == (two.steps, two.losses, two.tokens)
    for ours, theirs in zip(one.layers, two.layers, strict=True):
        for name in (field.name for field in dataclasses.fields(LayerWindow)):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


WHIPLASH = [
    [make_routing(2, False, 0), make_routing(2, False, 1)],
    [make_routing(1, False, 2), make_routing(1, False, 3)],
    [make_routing(3, True, 4)],
    [make_routing(1, True, 5)],
]


def test_top_k_and_capacity_may_change_within_a_window() -> None:
    recorder = make_recorder()
    for step, routings in enumerate(WHIPLASH, start=1):
        play(recorder, step, *routings)
    window = recorder.flush()
    layer = window.layers[0]
    assert layer.assignments.tolist() == [2 * 2 * B * S, 2 * B * S, 3 * B * S, B * S]
    assert layer.assignments.dtype == np.int64
    assert layer.top_k == 3
    events = window.routing_events("r", timestamp=0.0)
    assert [event.top_k for event in events] == [2, 1, 3, 1]
    lost = layer.assignments - layer.counts.sum(axis=1)
    assert lost[:2].tolist() == [0, 0]
    assert min(lost[2:]) > 0
    assert layer.dropped_fraction == pytest.approx(float((lost / layer.assignments).mean()))
    expected = np.mean([overflow_of_a_step(routings) for routings in WHIPLASH], axis=0)
    assert min(expected) > 0
    np.testing.assert_allclose(layer.overflow_by_expert, expected, rtol=1e-12)
    assert layer.overflow_fraction == pytest.approx(expected.sum())


def test_a_dropless_step_drops_nothing_whatever_the_starting_top_k() -> None:
    recorder = make_recorder()
    play(recorder, 1, make_routing(1, False, 0))
    layer = recorder.flush().layers[0]
    assert (layer.top_k, layer.dropped_fraction) == (1, 0.0)
    # 16 tokens over 4 experts: 5 are fair.
    over = np.maximum(layer.counts[0] - 5, 0) / 16
    np.testing.assert_array_equal(layer.overflow_by_expert, over)


@pytest.mark.parametrize("at", range(1, 4))
def test_a_window_of_changing_top_k_survives_a_checkpoint(at: int) -> None:
    whole, first, second = make_recorder(), make_recorder(), make_recorder()
    for step, routings in enumerate(WHIPLASH):
        play(whole, step, *routings)
        if step == at:
            second.load_state_dict(first.state_dict())
        play(first if step < at else second, step, *routings)
    assert_equal(whole.flush(), second.flush())


def test_a_saved_window_does_not_change_with_the_recorder() -> None:
    recorder, resumed = make_recorder(), make_recorder()
    play(recorder, 1, *WHIPLASH[0])
    saved = recorder.state_dict()
    play(recorder, 2, *WHIPLASH[2])
    resumed.load_state_dict(saved)
    play(resumed, 2, *WHIPLASH[2])
    assert_equal(recorder.flush(), resumed.flush())


def test_a_step_no_layer_was_observed_in_says_nothing() -> None:
    recorder = make_recorder()
    recorder.begin_step(torch.zeros(B, S, dtype=torch.int64))
    recorder.end_step(1, None)
    window = recorder.flush()
    layer = window.layers[0]
    assert (layer.assignments.tolist(), layer.top_k) == ([0], 2)
    assert (layer.dropped_fraction, layer.overflow_fraction) == (0.0, 0.0)
    assert [event.top_k for event in window.routing_events("r", timestamp=0.0)] == [2]


def test_an_empty_window_has_no_overflow() -> None:
    layer = make_recorder().flush().layers[0]
    assert layer.overflow_by_expert.tolist() == [0.0] * E
    assert layer.assignments.shape == (0,)


def test_one_layer_may_grow_between_a_flush_and_the_next_step() -> None:
    recorder, fresh = make_recorder([E, E]), make_recorder([E, E + 2])
    tokens = torch.zeros(B, S, dtype=torch.int64)

    def step(to: RoutingRecorder, number: int, experts: int) -> None:
        to.begin_step(tokens)
        to.observe(0, make_routing(2, True, number))
        to.observe(1, make_routing(2, True, number, experts))
        to.end_step(number, torch.tensor(1.0))

    for number in range(4):
        step(recorder, number, E)
    recorder.flush()
    recorder.set_population([E, E + 2])
    for number in range(4, 8):  # the whole window is free again
        step(recorder, number, E + 2)
        step(fresh, number, E + 2)
    assert_equal(recorder.flush(), fresh.flush())


def test_a_capped_model_reports_the_drops_of_each_expert() -> None:
    model = GPT(
        ModelConfig(n_layers=1, d_model=16, n_heads=2, num_experts=E, top_k=2),
        RouterConfig(capacity_factor=0.75),
        VOCAB,
        generator=torch.Generator().manual_seed(0),
    )
    layer: MoELayer = model.moe_layers()[0]
    seen: list[Routing] = []
    recorder = make_recorder()

    def observe(layer_id: int, routing: Routing) -> None:
        seen.append(routing)
        recorder.observe(layer_id, routing)

    layer.observer = observe
    tokens = torch.randint(0, VOCAB, (B, S), generator=torch.Generator().manual_seed(1))
    for step in range(2):
        recorder.begin_step(tokens)
        model.train()(tokens)
        recorder.end_step(step, None)
        layer.top_k = 1
    window = recorder.flush().layers[0]
    expected = np.mean([overflow_of_a_step([routing]) for routing in seen], axis=0)
    np.testing.assert_allclose(window.overflow_by_expert, expected, rtol=1e-12)
    assert window.overflow_fraction == pytest.approx(window.dropped_fraction)
    assert window.dropped_fraction >= 0.2
