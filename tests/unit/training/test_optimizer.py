"""Which parameters weight decay applies to, and that the steps are those of torch's AdamW."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_steps_are_those_of_torchs_adamw_bit_for_bit() -> None:
    chosen = OptimizerConfig(lr=0.1, weight_decay=0.3)
    ours, theirs = (torch.nn.Linear(3, 3, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    lean = build_optimizer(ours, chosen)
    plain = torch.optim.AdamW(
        theirs.parameters(),
        lr=0.1,
        betas=(chosen.beta1, chosen.beta2),
        eps=chosen.eps,
        weight_decay=0.3,
        fused=True,
    )
    for _ in range(3):
        for model, optimizer in ((ours, lean), (theirs, plain)):
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert model.weight.grad is None
    assert torch.equal(ours.weight, theirs.weight)
    found, expected = (optimizer.state_dict()["state"][0] for optimizer in (lean, plain))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[entry], expected[entry]) for entry in expected)


def test_an_optimizer_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; from chronorun.config.training import OptimizerConfig; "
        "from chronorun.training.optimizer import build_optimizer; "
        "model = torch.nn.Linear(2, 2); optimizer = build_optimizer(model, OptimizerConfig()); "
        "optimizer.register_step_post_hook(lambda *_: None); "
        "model(torch.ones(1, 2)).sum().backward(); optimizer.step(); optimizer.zero_grad(); "
        "optimizer.state_dict(); sys.exit('torch._dynamo' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
