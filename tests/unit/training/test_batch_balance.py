"""A batch cut into micro-batches has the balancing loss, and the gradient, of the whole batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.run import RunConfig
from chronorun.config.training import Device, OptimizerConfig, TrainingConfig
from chronorun.data import TokenSplit
from chronorun.model import GPT, Routing
from chronorun.model.twins import Twin
from chronorun.training import stepping
from chronorun.training.stepping import Stepper, StepResult

VOCAB, ROWS, LENGTH = 32, 16, 17


@dataclass
class Taken:
    """One step: its figures, the gradients, the load that loss-free balancing saw."""

    result: StepResult
    gradients: dict[str, torch.Tensor]
    loads: list[list[int]] = field(default_factory=list)


@pytest.fixture(autouse=True)
def _batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows of unlike tokens: the parts of the batch are routed unlike each other.
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(row, row + 8, LENGTH) for row in range(ROWS)])
    monkeypatch.setattr(stepping, "train_batch", lambda *args, **kwargs: rows)


def run_config(parts: int, dropout: float = 0.0, **router: Any) -> RunConfig:
    return RunConfig(
        model=ModelConfig(
            n_layers=2,
            d_model=16,
            n_heads=2,
            context_length=LENGTH - 1,
            d_ff=16,
            num_experts=4,
            dropout=dropout,
        ),
        router=RouterConfig(**router),
        optimizer=OptimizerConfig(grad_clip=0.0),
        training=TrainingConfig(batch_size=ROWS, grad_accum_steps=parts, device=Device.cpu),
    )


def sharp_model(config: RunConfig) -> GPT:
    model = GPT(config.model, config.router, VOCAB, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in model.moe_layers():
            layer.router.weight.mul_(20)
    return model


class _Kept(torch.optim.SGD):
    """Keeps the gradients and changes nothing."""

    def __init__(self, model: GPT) -> None:
        super().__init__(model.parameters(), lr=0.0)
        self.model, self.gradients = model, {}

    def step(self, closure: Any = None) -> None:
        named = self.model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}


def take(config: RunConfig, model: GPT | None = None) -> Taken:
    torch.manual_seed(0)
    model = model or sharp_model(config)
    optimizer = _Kept(model)
    split: Any = TokenSplit.__new__(TokenSplit)
    loads = []
    for layer in model.moe_layers():
        layer.router.update_selection_bias = (  # type: ignore[method-assign]
            lambda groups, router=layer.router: loads.append(router.load.tolist())
        )
    stepper = Stepper(config, model, optimizer, split, torch.device("cpu"))
    return Taken(stepper.take(0, lambda tokens: None), optimizer.gradients, loads)


def furthest(one: Taken, other: Taken) -> float:
    return max(
        float((grad - other.gradients[name]).norm() / grad.norm().clamp(min=1e-12))
        for name, grad in one.gradients.items()
    )


@pytest.mark.parametrize("parts", [2, 4, 16])
@pytest.mark.parametrize(
    "router",
    [
        {"load_balancing_coef": 0.5},
        {"load_balancing_coef": 0.5, "loss_free": True},
        {"load_balancing_coef": 0.0},
        {"load_balancing_coef": 0.0, "loss_free": True},
    ],
    ids=["loss", "both", "none", "loss_free"],
)
def test_parts_have_the_loss_and_gradient_of_the_whole(parts: int, router: dict[str, Any]) -> None:
    whole, cut = take(run_config(1, **router)), take(run_config(parts, **router))
    assert float(whole.result.load_balancing_loss) > 1.01
    for name in ("loss", "load_balancing_loss", "router_z_loss"):
        figures = [float(getattr(one.result, name)) for one in (cut, whole)]
        assert figures[0] == pytest.approx(figures[1], rel=1e-6), name
    assert furthest(whole, cut) < 1e-5
    assert cut.loads == whole.loads


def test_twins_count_as_one_in_parts_as_well() -> None:
    results = []
    for parts in (1, 4):
        config = run_config(parts, load_balancing_coef=0.5)
        model = sharp_model(config)
        direction = torch.nn.functional.normalize(torch.ones(16), dim=0)
        model.moe_layers()[0].set_twins([Twin(0, 3, direction, torch.tensor(0.0))])
        results.append(take(config, model))
    assert furthest(*results) < 1e-5


def routed(config: RunConfig) -> list[list[int]]:
    """Return what each layer was sent in each part: in the pass ahead, then in the step's own."""
    model = sharp_model(config)
    seen: list[list[int]] = []
    load = model.moe_layers()[0]._load
    for layer in model.moe_layers():

        def told(counts_E: torch.Tensor) -> torch.Tensor:
            seen.append(counts_E.tolist())
            return load(counts_E)

        layer._load = told  # type: ignore[method-assign]
    take(config, model)
    return seen


@pytest.mark.parametrize(
    "config",
    [
        run_config(4, noisy=True),
        run_config(4, dropout=0.5),
        run_config(4, dropout=0.3, noisy=True, capacity_factor=0.5),
    ],
    ids=["noise", "dropout", "all"],
)
def test_the_pass_ahead_draws_what_the_step_draws(config: RunConfig) -> None:
    seen = routed(config)
    assert len(seen) == 2 * 4 * 2
    assert seen[:8] == seen[8:]


def test_the_pass_ahead_leaves_no_trace() -> None:
    streams = []
    for coefficient in (0.5, 0.0):
        config = run_config(4, dropout=0.3, noisy=True, load_balancing_coef=coefficient)
        model = sharp_model(config)
        calls: list[str] = []

        def note(name: str, calls: list[str] = calls) -> Any:
            return lambda *args: calls.append(name)

        for layer in model.moe_layers():
            layer.observer, layer.gate_observer = note("observer"), note("gates")
            layer.spy = note("spy")
        take(config, model)
        assert sorted(calls) == sorted(["observer", "gates", "spy"] * 2 * 4)
        streams.append(torch.get_rng_state())
        assert all(layer.counter is None for layer in model.moe_layers())
        assert all(layer.sum_counts is None for layer in model.moe_layers())
        assert all(layer.balance_observer is None for layer in model.moe_layers())
    assert torch.equal(*streams)


@pytest.mark.parametrize(
    ("parts", "coefficient", "forwards"), [(1, 0.5, 1), (4, 0.5, 8), (4, 0.0, 4)]
)
def test_a_pass_goes_ahead_only_where_a_gradient_depends_on_it(
    parts: int, coefficient: float, forwards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [], GPT.pass_blocks

    def pass_blocks(self: GPT, tokens_BS: torch.Tensor) -> Any:
        calls.append(len(tokens_BS))
        return original(self, tokens_BS)

    monkeypatch.setattr(GPT, "pass_blocks", pass_blocks)
    take(run_config(parts, load_balancing_coef=coefficient))
    assert calls == forwards * [ROWS // parts]


def test_what_an_observer_learns_of_a_part_is_the_part_alone() -> None:
    config = run_config(4)
    model = sharp_model(config)
    totals: list[int] = []

    def observe(layer_id: int, routing: Routing) -> None:
        totals.append(int(routing.tokens_per_expert_E.sum()))

    for layer in model.moe_layers():
        layer.observer = observe
    take(config, model)
    assert totals == 8 * [2 * (LENGTH - 1) * ROWS // 4]
