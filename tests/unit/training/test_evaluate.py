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
