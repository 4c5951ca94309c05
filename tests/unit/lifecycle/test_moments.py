"""Optimizer state follows experts through edits, and newborn experts keep their parent's pace."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from unit.model.moe_reference import make_layer

from chronorun.config.lifecycle import ChildMoments, MergedMoments
from chronorun.errors import UserError
from chronorun.lifecycle.edit.moments import (
    Moments,
    averaged_moments,
    child_moments,
    is_second_moment,
    move_moments,
    optimizer_bytes,
    read_moments,
    write_moments,
)
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.model import MoELayer, read_expert
from chronorun.model.population import rebuild
from chronorun.model.twins import Twin

D, WIDTH, EXPERTS = 8, 16, 5
Build = Callable[[list[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, tuple[Build, int]] = {
    "adamw_fused": (lambda p: torch.optim.AdamW(_groups(p), fused=True), 2),
    "adam_amsgrad": (lambda p: torch.optim.Adam(_groups(p), amsgrad=True), 3),
    "sgd_momentum": (lambda p: torch.optim.SGD(_groups(p), lr=0.1, momentum=0.9), 1),
}
"""How to build each, and its state tensors per parameter."""


def _groups(parameters: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": parameters[:0:-1]}, {"params": parameters[:1], "weight_decay": 0.0}]


def step(layer: MoELayer, optimizer: Optimizer, number: int, ids: Sequence[int]) -> None:
    """Take a step on gradients that depend on the step and on the expert, not on its slot."""
    for parameter in layer.parameters():
        generator = torch.Generator().manual_seed(number)
        every = torch.randn(9, *parameter.shape[1:], generator=generator)
        parameter.grad = every[list(ids)]
    optimizer.step()


def trained(kind: str, steps: int = 7) -> tuple[MoELayer, Optimizer]:
    layer = make_layer()
    optimizer = OPTIMIZERS[kind][0](list(layer.parameters()))
    for number in range(steps):
        step(layer, optimizer, number, range(EXPERTS))
    return layer, optimizer


def edit(
    layer: MoELayer,
    optimizer: Optimizer,
    keep: Sequence[int],
    values: Sequence[Mapping[str, Tensor]] = (),
    new: Sequence[Moments] = (),
) -> None:
    before = layer.slot_tensors()
    rebuild(layer, keep, values)
    move_moments(optimizer, before, layer.slot_tensors(), keep, new)


def assert_same(one: Moments, other: Moments) -> None:
    assert {n: set(e) for n, e in one.items()} == {n: set(e) for n, e in other.items()}
    for name, entries in one.items():
        assert all(torch.equal(value, other[name][entry]) for entry, value in entries.items())


every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)


@every_optimizer
def test_removal_gives_back_the_bytes_of_exactly_one_expert(kind: str) -> None:
    layer, optimizer = trained(kind)
    before = optimizer_bytes(optimizer)
    edit(layer, optimizer, [0, 1, 3, 4])
    one_expert = (D + 2 * D * WIDTH) * 4 * OPTIMIZERS[kind][1]
    assert before - optimizer_bytes(optimizer) == one_expert


@every_optimizer
def test_untouched_experts_keep_their_moments_bit_for_bit(kind: str) -> None:
    layer, optimizer = trained(kind)
    moments = [read_moments(layer, optimizer, slot) for slot in range(EXPERTS)]
    edit(layer, optimizer, range(EXPERTS), [read_expert(layer, 0)], [moments[0]])
    assert_same(read_moments(layer, optimizer, 5), moments[0])
    edit(layer, optimizer, [5, 0, 2, 4])
    for slot, expert in enumerate([0, 0, 2, 4]):
        assert_same(read_moments(layer, optimizer, slot), moments[expert])


@every_optimizer
def test_state_belongs_to_the_live_parameters_in_their_old_places(kind: str) -> None:
    layer, optimizer = trained(kind)
    edit(layer, optimizer, [1, 2, 3], [read_expert(layer, 0)], [{}])
    live = list(layer.parameters())
    assert {id(p) for p in optimizer.state} == {id(p) for p in live}
    places = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    assert places == [[id(p) for p in live[:0:-1]], [id(live[0])]]
    if kind != "sgd_momentum":
        assert [int(optimizer.state[p]["step"]) for p in live] == [7] * len(live)


@every_optimizer
def test_the_next_step_is_that_of_an_optimizer_without_the_edit(kind: str) -> None:
    layer, optimizer = trained(kind)
    control, control_optimizer = copy.deepcopy((layer, optimizer))
    edit(layer, optimizer, [0, 2, 3, 4], [read_expert(layer, 3)], [{}])
    for number in (7, 8):
        step(layer, optimizer, number, [0, 2, 3, 4, 7])
        step(control, control_optimizer, number, range(EXPERTS))
    for slot, expert in enumerate([0, 2, 3, 4]):
        one, other = read_expert(layer, slot), read_expert(control, expert)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_new_expert_starts_at_zero_where_nothing_is_said() -> None:
    layer, optimizer = trained("adamw_fused")
    said = {"experts.w1": {"exp_avg": torch.ones(D, WIDTH)}}
    edit(layer, optimizer, range(EXPERTS), [read_expert(layer, 0)] * 2, [{}, said])
    blank, partly = (read_moments(layer, optimizer, slot) for slot in (5, 6))
    assert all(not value.any() for entries in blank.values() for value in entries.values())
    assert torch.equal(partly["experts.w1"]["exp_avg"], torch.ones(D, WIDTH))
    assert not partly["experts.w1"]["exp_avg_sq"].any()
    assert not partly["experts.w2"]["exp_avg"].any()


def test_a_parameter_without_state_or_group_gets_none() -> None:
    layer = make_layer()
    optimizer = torch.optim.AdamW([layer.experts.w1], fused=True)
    assert read_moments(layer, optimizer, 0) == {}
    assert read_moments(layer, None, 0) == {}
    edit(layer, optimizer, [0, 1])
    assert len(optimizer.state) == 0
    assert optimizer.param_groups[0]["params"][0] is layer.experts.w1
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_state_that_has_no_slots_is_refused_before_anything_moves() -> None:
    layer = make_layer()
    optimizer = torch.optim.Adafactor(layer.parameters())
    step(layer, optimizer, 0, range(EXPERTS))
    before = layer.slot_tensors()
    with pytest.raises(UserError) as caught:
        edit(layer, optimizer, [0, 1])
    assert str(caught.value) == (
        "optimizer: row_var of router.weight has shape [5, 1], expected [5, 8] or a single number; "
        "use an optimizer with state per weight, such as AdamW"
    )
    assert optimizer.param_groups[0]["params"][0] is before["router.weight"]


@every_optimizer
def test_what_was_read_can_be_written_back_in_place(kind: str) -> None:
    layer, optimizer = trained(kind)
    saved = [read_moments(layer, optimizer, slot) for slot in range(EXPERTS)]
    places = [v.data_ptr() for s in optimizer.state.values() for v in s.values()]
    step(layer, optimizer, 7, range(EXPERTS))
    moved = read_moments(layer, optimizer, 3)
    write_moments(layer, optimizer, 2, saved[2])
    write_moments(layer, optimizer, 4, {})
    assert_same(read_moments(layer, optimizer, 2), saved[2])
    assert_same(read_moments(layer, optimizer, 3), moved)
    assert_same(read_moments(layer, optimizer, 4), child_moments(saved[4], ChildMoments.zero))
    assert places == [v.data_ptr() for s in optimizer.state.values() for v in s.values()]


def test_values_without_a_place_are_refused() -> None:
    layer, optimizer = trained("sgd_momentum")
    with pytest.raises(ValueError) as caught:
        write_moments(layer, optimizer, 0, {"experts.w1": {"exp_avg": torch.ones(D, WIDTH)}})
    assert str(caught.value) == (
        "write_moments: experts.w1 has values for exp_avg, expected some of [momentum_buffer]; "
        "write to the optimizer that they were read from"
    )


@pytest.mark.parametrize(
    ("how", "first", "second"),
    [
        (ChildMoments.zero_m, 0.0, 4.0),
        (ChildMoments.zero, 0.0, 0.0),
        (ChildMoments.zero_no_rewarm, 0.0, 0.0),
        (ChildMoments.inherit, 4.0, 4.0),
        (ChildMoments.scale, 2.0, 2.0),
    ],
)
def test_child_moments(how: ChildMoments, first: float, second: float) -> None:
    names = ("exp_avg", "momentum_buffer", "exp_avg_sq", "max_exp_avg_sq", "square_avg")
    child = child_moments({"w": {name: torch.tensor([4.0]) for name in names}}, how)["w"]
    assert [name for name in names if is_second_moment(name)] == list(names[2:])
    assert [float(child[name]) for name in names] == [first] * 2 + [second] * 3


def test_moments_of_a_merge() -> None:
    survivor = {"w": {"exp_avg": torch.tensor([1.0]), "exp_avg_sq": torch.tensor([8.0])}}
    absorbed = {"w": {"exp_avg": torch.tensor([5.0]), "exp_avg_sq": torch.tensor([0.0])}}
    kept = averaged_moments(survivor, absorbed, 0.75, MergedMoments.survivor)
    mean = averaged_moments(survivor, absorbed, 0.75, MergedMoments.share_weighted)
    assert_same(kept, survivor)
    assert_same(mean, {"w": {"exp_avg": torch.tensor([2.0]), "exp_avg_sq": torch.tensor([6.0])}})


TOY_STEPS, TOY_WIDTH = 1500, 16


def learn(layer: MoELayer, optimizer: Optimizer, number: int) -> None:
    """Take a step of a noisy regression."""
    generator = torch.Generator().manual_seed(5)
    A, B = torch.randn(2, TOY_WIDTH, TOY_WIDTH, generator=generator) / 4
    generator.manual_seed(1000 + number)
    x_BSD, noise = torch.randn(2, 1, 128, TOY_WIDTH, generator=generator)
    target = 2 * torch.tanh(x_BSD @ A) + torch.sin(x_BSD @ B) + 0.5 * noise
    optimizer.zero_grad()
    out, losses = layer(x_BSD)
    (F.mse_loss(out, target) + 0.01 * losses.load_balancing_loss).backward()
    optimizer.step()


@functools.cache
def toy(top_k: int) -> tuple[MoELayer, Optimizer]:
    layer = make_layer(num_experts=4, top_k=top_k, d_model=TOY_WIDTH, d_ff=32)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, betas=(0.9, 0.999), fused=True)
    for number in range(TOY_STEPS):
        learn(layer, optimizer, number)
    return layer, optimizer


def newborn_pace(top_k: int, how: ChildMoments, rewarm: bool, blank: bool) -> float:
    """Return RMS of a child's first 20 updates over that of its parent's: they share the tokens."""
    layer, optimizer = copy.deepcopy(toy(top_k))
    generator = torch.Generator().manual_seed(9)
    values, moments = read_expert(layer, 0), child_moments(read_moments(layer, optimizer, 0), how)
    for name in ("experts.w1", "experts.w2"):
        rms = values[name].square().mean().sqrt()
        noise = rms * torch.randn(values[name].shape, generator=generator)
        values[name] = noise if blank else values[name] + 0.01 * noise
    u_D = F.normalize(torch.randn(TOY_WIDTH, generator=generator), dim=0)
    x_TD = torch.randn(2048, TOY_WIDTH, generator=generator)
    with torch.no_grad():
        mine_T = (layer.route(x_TD)[0].expert_index_KT == 0).any(0)
    edit(layer, optimizer, range(4), [values], [moments])
    layer.set_twins([Twin(0, 4, u_D, (x_TD[mine_T] @ u_D).median())])
    if rewarm:
        guard = UpdateGuard({0: layer}, {"L0_E4": 4}.__getitem__, rewarm_steps=50)
        guard.attach(optimizer)
        guard.start_rewarm(0, "L0_E4")
    squares_E = torch.zeros(5)
    for number in range(TOY_STEPS, TOY_STEPS + 20):
        before = [w.detach().clone() for w in layer.experts.parameters()]
        learn(layer, optimizer, number)
        for w, old in zip(layer.experts.parameters(), before, strict=True):
            squares_E += (w.detach() - old).square().flatten(1).sum(1)
    return float((squares_E[4] / squares_E[0]).sqrt())


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize(
    ("how", "rewarm", "blank"),
    [
        (ChildMoments.zero_m, False, False),
        (ChildMoments.zero, True, False),
        (ChildMoments.zero, True, True),
        (ChildMoments.inherit, False, False),
        (ChildMoments.scale, False, False),
    ],
)
def test_a_newborn_moves_at_most_twice_as_fast_as_its_parent(
    top_k: int, how: ChildMoments, rewarm: bool, blank: bool
) -> None:
    assert 0.25 < newborn_pace(top_k, how, rewarm, blank) <= 2.0


@pytest.mark.parametrize("blank", [False, True])
def test_zeroed_moments_without_a_rewarm_are_the_trap(blank: bool) -> None:
    assert newborn_pace(1, ChildMoments.zero_no_rewarm, False, blank) > 4.0
