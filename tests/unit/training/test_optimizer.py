"""Which parameters weight decay applies to."""

from __future__ import annotations

import torch

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.training import OptimizerConfig
from chronorun.model import GPT
from chronorun.training.optimizer import build_optimizer


def test_decay_takes_the_matrices_that_mix_features_and_nothing_else() -> None:
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=8, moe_stride=2)
    model = GPT(config, RouterConfig(noisy=True), 32)
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.3))
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    chosen = {id(parameter) for parameter in decayed["params"]}
    kinds = {
        ".".join(name.split(".")[2:]) or name
        for name, parameter in model.named_parameters()
        if id(parameter) in chosen
    }
    attention = {name for name in kinds if name.startswith("attention.")}
    assert kinds - attention == {
        "feed_forward.up.weight",
        "feed_forward.down.weight",
        "feed_forward.experts.w1",
        "feed_forward.experts.w2",
    }
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_the_configuration_reaches_adamw() -> None:
    model = torch.nn.Linear(2, 2)
    chosen = OptimizerConfig(lr=0.5, beta1=0.7, beta2=0.8, eps=1e-4)
    group = build_optimizer(model, chosen).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (
        0.5,
        (0.7, 0.8),
        1e-4,
        True,
    )
