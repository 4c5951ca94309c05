"""What is kept of training forwards: how much each expert's output helps, and who is starved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from unit.lifecycle.small_run import SmallRun, batch

from chronorun.config.model import GateOrder, RouterConfig
from chronorun.core.state import pack, unpack
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.model.shapes import Routing

EPS = 1e-2


def loss_scaled(run: SmallRun, layer_id: int, slot: int, scale: float) -> float:
    """Return the training loss of the current batch with one expert's output scaled."""
    layer = run.layers[layer_id]

    def scaled(y_ND: Tensor, expert_N: Tensor) -> Tensor:
        return y_ND * torch.where(expert_N == slot, scale, 1.0)[:, None]

    layer.output_hook = scaled
    tokens = batch(run.step)
    with torch.no_grad():
        loss = run.model(tokens[:, :-1], tokens[:, 1:]).loss
    layer.output_hook = None
    assert loss is not None
    return float(loss)


@pytest.mark.parametrize(
    "router",
    [
        RouterConfig(),
        RouterConfig(gate_order=GateOrder.softmax_then_topk),
        RouterConfig(capacity_factor=0.8),
    ],
)
def test_a_contribution_is_the_derivative_by_the_log_of_an_experts_scale(
    router: RouterConfig,
) -> None:
    run = SmallRun(router=router)
    run.train(12)
    run.split("L1_E2")
    # The last layer: no choice of experts comes after it that could jump.
    expected = [
        (loss_scaled(run, 1, slot, 1 + EPS) - loss_scaled(run, 1, slot, 1 - EPS)) / (2 * EPS)
        for slot in range(5)
    ]
    run.tap.start_window()
    run.train()
    got = run.tap.contributions(1)
    assert got is not None
    assert got == pytest.approx(expected, rel=0.03, abs=1e-4)
    assert max(map(abs, got)) > 1e-3
    assert all(got[slot] != 0.0 for slot in (2, 4))


def test_contributions_are_means_over_steps_and_survive_a_resume() -> None:
    run = SmallRun()
    run.train(3)
    run.tap.start_window()
    each = []
    for _ in range(3):
        other = InputTap(run.tap.n_experts, None)
        plain, tensors = pack(run.tap.state_dict())
        other.load_state_dict(unpack(plain, {k: v.clone() for k, v in tensors.items()}))
        before = other.contributions(0) or [0.0] * 4
        run.train()
        assert run.tap.steps == other.steps + 1
        after = run.tap.contributions(0)
        assert after is not None
        each.append(
            [a * (other.steps + 1) - b * other.steps for a, b in zip(after, before, strict=True)]
        )
    mean = [sum(column) / 3 for column in zip(*each, strict=True)]
    assert run.tap.contributions(0) == pytest.approx(mean, abs=1e-6)


def test_without_gates_or_steps_there_is_no_contribution() -> None:
    run = SmallRun()
    assert run.tap.contributions(0) is None
    with torch.no_grad():
        run.model(batch(0)[:, :-1], batch(0)[:, 1:])
    run.tap.end_step()
    assert run.tap.contributions(0) is None


def test_a_changed_population_is_forgotten_in_its_layer_only() -> None:
    run = SmallRun()
    run.train(2)
    run.split("L0_E1")
    assert run.tap.n_experts == [5, 4]
    assert run.tap.contributions(0) is None
    assert run.tap.inputs(0, [0]) is None
    assert run.tap.centroid(0) is None
    assert run.tap.contributions(1) is not None
    run.train(1)
    assert len(run.tap.contributions(0) or []) == 5


def test_evaluation_feeds_nothing() -> None:
    run = SmallRun()
    run.train(2)
    kept, sums = run.tap.routing[0], run.tap.contributions(0)
    run.probe(0)
    run.logits()
    assert run.tap.routing[0] is kept
    assert run.tap.contributions(0) == sums


# ---- what was seen ---------------------------------------------------------------------------


def seen() -> InputTap:
    """Return a tap that saw eight tokens; the first two are undecided between all experts."""
    decided = [0.97, 0.01, 0.01, 0.01]
    probs_TE = torch.tensor([[0.25] * 4, [0.3, 0.3, 0.2, 0.2], *[decided] * 6])
    index_KT = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [1, 2, 3, 0, 1, 2, 3, 0]])
    x_TD = torch.arange(16.0).view(8, 2)
    counts_E = torch.tensor([4, 4, 4, 4])
    routing = Routing(
        x_TD, probs_TE.log(), probs_TE, index_KT, torch.full((2, 8), 0.5), None, counts_E
    )
    tap = InputTap([4], lambda: torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    tap.observe(0, routing)
    return tap


def test_the_undecided_quarter_is_starved() -> None:
    starved_T = seen().starved(0, None)
    assert starved_T is not None
    assert starved_T.tolist() == [True, True, *[False] * 6]


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], [False] * 8),
        ([0.1, 0.0, 0.0, 0.0], [True, False, False, True] * 2),
        ([0.1, 0.0, 0.2, 0.0], [True] * 8),
    ],
)
def test_tokens_of_overflowing_experts_are_starved(
    overflow: list[float], expected: list[bool]
) -> None:
    starved_T = seen().starved(0, overflow)
    assert starved_T is not None
    assert starved_T.tolist() == expected


def test_inputs_tokens_and_types_follow_masks_and_slots() -> None:
    tap = seen()
    inputs = tap.inputs(0, [3])
    assert inputs is not None
    assert inputs[:, 0].tolist() == [4.0, 6.0, 12.0, 14.0]
    chosen_T = tap.starved(0, None)
    tokens = tap.tokens(0, chosen_T)
    assert tokens is not None
    assert tokens.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert tap.type_counts(0, chosen_T, 4) == [1, 1, 0, 0]
    assert tap.type_counts(0, torch.ones(8, dtype=torch.bool), 4) == [3, 3, 2, 0]
    assert tap.centroid(0).tolist() == [7.0, 8.0]  # type: ignore[union-attr]


def test_what_was_not_seen_is_none() -> None:
    tap = InputTap([4], None)
    assert tap.inputs(0, [0]) is None
    assert tap.tokens(0, torch.ones(8, dtype=torch.bool)) is None
    assert tap.centroid(0) is None
    assert tap.starved(0, None) is None
    assert tap.type_counts(0, None, 4) is None
    seen_tap = seen()
    assert seen_tap.tokens(0, None) is None
    # Types of another forward than the mask's.
    assert seen_tap.type_counts(0, torch.ones(5, dtype=torch.bool), 4) is None
