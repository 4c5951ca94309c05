"""Counts of parameters and operations, against the model itself."""

from __future__ import annotations

import pytest
import torch

from chronorun.bench.evidence.flops import Shape
from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.model import GPT

SHAPES = {
    "nano": {"n_layers": 2, "d_model": 64, "n_heads": 4, "context_length": 64, "d_ff": 128},
    "tiny": {"n_layers": 4, "d_model": 128, "n_heads": 4, "context_length": 128},
    "every second": {"n_layers": 4, "d_model": 32, "n_heads": 2, "moe_stride": 2},
}


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("top_k", "experts"), [(1, (3, 3)), (2, (8, 5)), (2, (1, 16))])
def test_parameters_are_the_models(
    name: str, top_k: int, experts: tuple[int, ...], noisy: bool
) -> None:
    config = ModelConfig(**SHAPES[name], top_k=top_k)  # type: ignore[arg-type]
    router, experts = RouterConfig(noisy=noisy), experts * (config.num_moe_layers // 2)
    model = GPT(config, router, 256, experts_per_layer=experts, generator=torch.Generator())
    counts, shape = model.parameter_counts(), Shape(config, 256, noisy)
    assert shape.total_parameters(experts) == counts["total"]
    norms = (2 * config.n_layers + 1) * config.d_model
    assert shape.active_parameters(experts) == counts["active"] - norms
    for layer in model.moe_layers():
        layer.top_k = 1
    assert shape.active_parameters(experts, [1] * len(experts)) == (
        model.parameter_counts()["active"] - norms
    )


def test_forward_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(**SHAPES["nano"], num_experts=4, top_k=2)  # type: ignore[arg-type]
    model = GPT(config, RouterConfig(), 256, generator=torch.Generator().manual_seed(0)).eval()
    tokens = torch.zeros(1, config.context_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    # torch sees neither inside the experts' kernels nor inside attention's, and the router's rows
    # padded to 16.
    experts, attention = 2 * 2 * 2 * 64 * 128, 4 * 2 * 64 * 64
    ours = Shape(config, 256).forward_flops_per_token([16, 16]) - 2 * experts - attention
    assert counter.get_total_flops() == ours * config.context_length


def test_an_idle_expert_costs_its_router_row_alone() -> None:
    shape = Shape(ModelConfig(**SHAPES["nano"], top_k=2), 256)  # type: ignore[arg-type]
    more = shape.training_flops_per_token([9, 8]) - shape.training_flops_per_token([8, 8])
    assert more == 6 * 64
