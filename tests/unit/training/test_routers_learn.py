"""The language-model loss reaches every router: each preset, each scenario, own layers."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from chronorun.config.compose import compose_run
from chronorun.config.paths import group_options
from chronorun.config.run import RunConfig
from chronorun.model import GPT
from chronorun.training.scenarios import build_scenario

SCRIPT = Path(__file__).parents[3] / "scripts/own_model.py"
VOCAB = 32
# Width and depth of a preset cost time and do not touch its gates.
SMALL = ("model.d_model=16", "model.n_heads=2", "model.d_ff=16", "model.context_length=16")


def shrunk(*overrides: str) -> RunConfig:
    config, _ = compose_run([*overrides, *SMALL])
    config.model.n_layers = 2 * config.model.moe_stride
    return config


def build(config: RunConfig) -> GPT:
    seed = torch.Generator().manual_seed(0)
    return GPT(config.model, config.router, VOCAB, generator=seed)


def router_gradients(model: GPT) -> list[float]:
    """Return the norm of the router rows' gradient by the loss alone, layer by layer."""
    tokens = torch.randint(VOCAB, (4, 17), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    loss = model(tokens[:, :-1], tokens[:, 1:]).loss
    assert loss is not None
    loss.backward()
    gradients = [layer.router.weight.grad for layer in model.moe_layers()]
    return [0.0 if grad is None else float(grad.norm()) for grad in gradients]


PRESETS = list(itertools.product(group_options("model"), group_options("router")))


@pytest.mark.parametrize(("model", "router"), PRESETS)
@pytest.mark.parametrize("top_k", [(), ("model.top_k=1",)], ids=["own", "top_1"])
def test_of_every_preset_with_its_own_top_k_and_with_one(
    model: str, router: str, top_k: tuple[str, ...]
) -> None:
    gradients = router_gradients(build(shrunk(f"model={model}", f"router={router}", *top_k)))
    assert min(gradients) > 1e-6


@pytest.mark.parametrize("experiment", group_options("experiment"))
@pytest.mark.parametrize("router", group_options("router"))
def test_of_every_experiment(experiment: str, router: str) -> None:
    config = shrunk(f"experiment={experiment}", f"router={router}")
    assert min(router_gradients(build(config))) > 1e-6


@pytest.mark.parametrize("scenario", group_options("scenario"))
@pytest.mark.parametrize("layer", ["0", "-1"])
def test_of_every_scenario_before_its_stress_under_it_and_after(scenario: str, layer: str) -> None:
    config = shrunk(
        f"scenario={scenario}", "model=nano", "lifecycle=aggressive", f"scenario.layer={layer}"
    )
    model = build(config)
    played = build_scenario(config, model, two_domains())
    end = config.scenario.start_step + config.scenario.duration
    seen = set()
    for step in (0, config.scenario.start_step, end + 1):
        played.before_step(step)
        seen |= {layer.top_k for layer in model.moe_layers()}
        assert min(router_gradients(model)) > 1e-6, step
    assert (1 in seen) is (scenario in ("too_few", "too_many", "capacity_whiplash"))


def two_domains() -> Any:
    split = SimpleNamespace(domain_tokens=lambda domain: np.zeros(99, dtype=np.int64))
    return SimpleNamespace(split=lambda name: split)


def test_of_the_layer_that_the_script_writes_by_hand() -> None:
    made = runpy.run_path(str(SCRIPT))
    torch.manual_seed(0)
    model = made["MyModel"]()
    assert [layer.top_k for layer in model.moe_layers()] == [1, 1]
    (model(torch.randn(64, 16)) - torch.randn(64, 16)).square().mean().backward()
    assert min(float(layer.rows.grad.norm()) for layer in model.moe_layers()) > 1e-6
