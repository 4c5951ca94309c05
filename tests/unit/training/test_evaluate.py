"""Evaluation measures and leaves no trace."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.model import GPT
from chronorun.training.evaluate import evaluate

CPU = torch.device("cpu")


def model(**router: bool) -> GPT:
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=8, dropout=0.3)
    return GPT(config, RouterConfig(**router), 32, generator=torch.Generator().manual_seed(0))


def batches(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 32, (size, 9)) for size in sizes]


def test_the_loss_is_the_mean_over_tokens_of_all_batches() -> None:
    gpt = model()
    found = evaluate(gpt, batches(1, 3), CPU, contextlib.nullcontext())
    rows = torch.from_numpy(np.concatenate(batches(1, 3)))
    with torch.no_grad():
        logits = gpt.eval()(rows[:, :-1]).logits
    assert found == pytest.approx(
        F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
    )
    assert found == pytest.approx(math.log(32), abs=0.5)


def test_evaluating_twice_gives_the_same_bits() -> None:
    gpt = model(noisy=True)
    one, two = (evaluate(gpt, batches(2, 2), CPU, contextlib.nullcontext()) for _ in range(2))
    assert one.hex() == two.hex()


def test_no_random_number_is_drawn() -> None:
    gpt = model(noisy=True).train()
    before = torch.get_rng_state()
    evaluate(gpt, batches(2), CPU, contextlib.nullcontext())
    assert torch.equal(torch.get_rng_state(), before)


def test_no_observer_is_called_and_no_load_is_counted() -> None:
    gpt = model(loss_free=True).train()
    calls: list[int] = []
    for layer in gpt.moe_layers():
        layer.observer = lambda layer_id, routing: calls.append(layer_id)
    evaluate(gpt, batches(2), CPU, contextlib.nullcontext())
    assert calls == []
    assert all(int(layer.router.load.sum()) == 0 for layer in gpt.moe_layers())
    assert all(parameter.grad is None for parameter in gpt.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_before(training: bool) -> None:
    gpt = model().train(training)
    evaluate(gpt, batches(1), CPU, contextlib.nullcontext())
    assert {module.training for module in gpt.modules()} == {training}


def test_the_mode_is_as_before_even_after_an_error() -> None:
    gpt = model().train()
    with pytest.raises(IndexError):
        evaluate(gpt, [np.full((1, 9), 99)], CPU, contextlib.nullcontext())
    assert gpt.training


def capped(capacity: float | None, in_evaluation: float | None = None) -> GPT:
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=8)
    router = RouterConfig(capacity_factor=capacity, eval_capacity_factor=in_evaluation)
    gpt = GPT(config, router, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(5)
    return gpt


def losses_by_batch_size(gpt: GPT) -> list[float]:
    (rows,) = batches(16)
    return [
        evaluate(gpt, [rows[i : i + n] for i in range(0, 16, n)], CPU, contextlib.nullcontext())
        for n in (1, 4, 16)
    ]


@pytest.mark.parametrize("capacity", [1.25, 1.0, 0.5])
def test_a_capacity_of_training_drops_nothing_in_evaluation(capacity: float) -> None:
    free, limited = (losses_by_batch_size(capped(factor)) for factor in (None, capacity))
    assert limited == free
    assert max(limited) - min(limited) < 1e-5


def test_a_capacity_of_evaluation_acts_there_alone() -> None:
    asked, trained = capped(None, 0.5), capped(0.5)
    rows = torch.from_numpy(batches(16)[0])[:, :-1]
    with torch.no_grad():
        free = capped(None)(rows).logits
        assert torch.equal(asked.train()(rows).logits, free)
        dropped = trained.train()(rows).logits
        assert not torch.allclose(dropped, free)
        assert torch.equal(asked.eval()(rows).logits, dropped)


def test_a_prefix_is_read_as_it_is_in_the_whole_text() -> None:
    gpt = capped(1.0).eval()
    rows = torch.from_numpy(batches(4)[0])[:, :8]
    with torch.no_grad():
        torch.testing.assert_close(gpt(rows[:1, :5]).logits, gpt(rows).logits[:1, :5])
