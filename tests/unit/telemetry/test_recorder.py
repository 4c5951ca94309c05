"""Every accumulated figure against a plain loop over tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.observing import TelemetryConfig
from chronorun.errors import StorageError
from chronorun.model import GPT, Routing
from chronorun.telemetry import RoutingRecorder

B, S, E, VOCAB = 2, 8, 4, 50
CONFIG = TelemetryConfig(token_types=64, position_buckets=4)
Forward = tuple[torch.Tensor, Routing]


def make_recorder(top_k: int, vocab: int = VOCAB, window: int = 3) -> RoutingRecorder:
    return RoutingRecorder([E], top_k, window, "cpu", CONFIG, vocab)


def make_forward(top_k: int, drops: bool, seed: int, lopsided: bool = False) -> Forward:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (B, S), generator=g)
    logits = torch.randn(B * S, E, generator=g)
    if lopsided:
        logits[:, 1] += 20
        logits[:, 3] -= 20
    index = logits.topk(top_k, dim=-1).indices.t().contiguous()
    kept = torch.rand(index.shape, generator=g) < 0.7 if drops else None
    counts = torch.zeros(E, dtype=torch.int64)
    for rank in range(top_k):
        for t in range(B * S):
            counts[index[rank, t]] += 1 if kept is None else int(kept[rank, t])
    probs = torch.softmax(logits, dim=-1)
    gate = torch.ones(index.shape) / top_k
    x = torch.zeros(B * S, 3)
    return tokens, Routing(x, logits, probs, index, gate, kept, counts)


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("lopsided", [False, True])
def test_a_window_equals_the_loop_over_tokens(top_k: int, drops: bool, lopsided: bool) -> None:
    recorder = make_recorder(top_k)
    counts = np.zeros((2, E), int)
    types, places = np.zeros((E, 64), int), np.zeros((E, 4), int)
    pairs, prob_sums = np.zeros((E, E), int), np.zeros(E)
    entropies: list[float] = []
    for step in range(2):
        for micro in range(2):  # gradient accumulation: two forwards, one row
            tokens, routing = make_forward(top_k, drops, 10 * step + micro, lopsided)
            recorder.begin_step(tokens)
            recorder.observe(0, routing)
            for t, token in enumerate(tokens.flatten().tolist()):
                row = routing.probs_TE[t].double().tolist()
                prob_sums += row
                entropies.append(-sum(p * math.log(p) for p in row if p > 0))
                kept = [
                    int(routing.expert_index_KT[rank, t])
                    for rank in range(top_k)
                    if routing.kept_KT is None or routing.kept_KT[rank, t]
                ]
                for e in kept:
                    counts[step, e] += 1
                    types[e, token] += 1
                    places[e, (t % S) * 4 // S] += 1
                    for other in kept:
                        pairs[e, other] += 1
        recorder.end_step(step + 1, torch.tensor(1.5 + step))
    window = recorder.flush()
    layer = window.layers[0]
    assert (window.steps, window.losses, window.tokens) == ([1, 2], [1.5, 2.5], [32, 32])
    np.testing.assert_array_equal(layer.counts, counts)
    np.testing.assert_array_equal(layer.token_types, types)
    np.testing.assert_array_equal(layer.positions, places)
    np.testing.assert_array_equal(layer.co_selection, pairs)
    np.testing.assert_allclose(layer.prob_sums, prob_sums, rtol=1e-5)
    assert layer.token_entropy_nats == pytest.approx(np.mean(entropies), rel=1e-5)
    asked = 32 * top_k
    dropped = [(asked - row.sum()) / asked for row in counts]
    over = [sum(max(0.0, c - 1.25 * asked / E) for c in row) / asked for row in counts]
    assert layer.dropped_fraction == pytest.approx(np.mean(dropped))
    assert layer.overflow_fraction == pytest.approx(np.mean(dropped if drops else over))


def test_a_flush_starts_an_empty_window() -> None:
    recorder = make_recorder(1)
    tokens, routing = make_forward(1, False, 0)
    recorder.begin_step(tokens)
    recorder.observe(0, routing)
    recorder.end_step(1, None)
    recorder.flush()
    window = recorder.flush()
    assert window.steps == []
    assert window.layers[0].counts.shape == (0, E)
    assert window.layers[0].token_entropy_nats == 0.0


def test_large_vocabularies_are_hashed_into_the_buckets() -> None:
    recorder = make_recorder(1, vocab=50_000)
    tokens, routing = make_forward(1, False, 0)
    recorder.begin_step(tokens * 977)
    recorder.observe(0, routing)
    recorder.end_step(1, None)
    types = recorder.flush().layers[0].token_types
    assert types.sum() == B * S
    assert (types.sum(axis=0) > 0).sum() > 5


def test_a_partly_filled_window_survives_a_checkpoint() -> None:
    def play(recorder: RoutingRecorder, steps: range) -> None:
        for step in steps:
            tokens, routing = make_forward(2, True, step)
            recorder.begin_step(tokens)
            recorder.observe(0, routing)
            recorder.end_step(step, torch.tensor(float(step)))

    whole, first, second = make_recorder(2), make_recorder(2), make_recorder(2)
    play(whole, range(3))
    play(first, range(2))
    second.load_state_dict(first.state_dict())
    play(second, range(2, 3))
    one, two = whole.flush(), second.flush()
    assert (one.steps, one.losses, one.tokens) == (two.steps, two.losses, two.tokens)
    for name in dataclasses.asdict(one.layers[0]):
        np.testing.assert_array_equal(getattr(one.layers[0], name), getattr(two.layers[0], name))
    events = [e.to_dict() for e in one.routing_events("r", timestamp=0.0)]
    assert msgspec.json.decode(msgspec.json.encode(events)) == events
    assert [e["token_count"] for e in events] == one.layers[0].counts.sum(axis=1).tolist()


def test_dropping_is_remembered_by_a_window_that_closes_right_after_a_resume() -> None:
    first, second = make_recorder(2), make_recorder(2)
    tokens, routing = make_forward(2, True, 0)
    first.begin_step(tokens)
    first.observe(0, routing)
    first.end_step(1, torch.tensor(1.0))
    second.load_state_dict(first.state_dict())
    one, two = first.flush().layers[0], second.flush().layers[0]
    assert one.overflow_fraction == two.overflow_fraction == one.dropped_fraction > 0


def test_a_window_of_another_size_is_refused() -> None:
    saved = make_recorder(1, window=3).state_dict()
    with pytest.raises(StorageError) as caught:
        make_recorder(1, window=5).load_state_dict(saved)
    assert str(caught.value) == (
        "checkpoint: telemetry window losses=[3], expected [5]; "
        "resume with the telemetry and training.eval_interval it had"
    )


def test_a_new_population_starts_an_empty_window() -> None:
    recorder = RoutingRecorder([E, E], 1, 3, "cpu", CONFIG, VOCAB)
    tokens, routing = make_forward(1, False, 0)
    recorder.begin_step(tokens)
    recorder.observe(1, routing)
    recorder.end_step(1, None)
    recorder.set_population([E, E + 2])
    window = recorder.flush()
    assert window.steps == []
    assert [layer.co_selection.shape for layer in window.layers] == [(E, E), (E + 2, E + 2)]


def test_a_step_without_a_loss_gives_events_without_one() -> None:
    recorder = make_recorder(1)
    for step, loss in ((1, None), (2, torch.tensor(0.1))):
        tokens, routing = make_forward(1, False, step)
        recorder.begin_step(tokens)
        recorder.observe(0, routing)
        recorder.end_step(step, loss)
    events = recorder.flush().routing_events("r", timestamp=0.0)
    # The float32 loss, exactly.
    assert [event.loss for event in events] == [None, float(np.float32(0.1))]


def test_evaluation_forwards_feed_nothing() -> None:
    model = GPT(ModelConfig(n_layers=1, d_model=16, n_heads=2), RouterConfig(), VOCAB)
    recorder = RoutingRecorder([8], 2, 2, "cpu", CONFIG, VOCAB)
    model.moe_layers()[0].observer = recorder.observe
    tokens = torch.randint(0, VOCAB, (B, S))
    recorder.begin_step(tokens)
    model.eval()(tokens)
    recorder.end_step(1, None)
    assert recorder.flush().layers[0].counts.sum() == 0
    recorder.begin_step(tokens)
    model.train()(tokens)
    recorder.end_step(2, None)
    assert recorder.flush().layers[0].counts.sum() == 2 * B * S


def test_a_step_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU these calls would synchronise; flush is the only place that may use them."""

    def forbidden(name: str) -> Callable[..., None]:
        def call(*args: object, **kwargs: object) -> None:
            raise AssertionError(f"{name} inside a step")

        return call

    recorder = make_recorder(2)
    tokens, routing = make_forward(2, True, 0)
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, forbidden(name))
    recorder.begin_step(tokens)
    recorder.observe(0, routing)
    recorder.end_step(1, torch.tensor(1.0))
