"""Experts come and go: what an edit must keep, and what it must not be felt by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from unit.model.moe_reference import assert_same_values_and_gradients, make_layer, tokens

from chronorun.config.model import GateOrder, ModelConfig, RouterConfig
from chronorun.model import GPT, MoELayer, insert_expert, read_expert, remove_expert


def test_reading_copies_every_slot_tensor() -> None:
    layer = make_layer(router=RouterConfig(noisy=True))
    values = read_expert(layer, 3)
    assert set(values) == {
        "router.weight",
        "router.noise_weight",
        "router.logit_offset",
        "router.selection_bias",
        "router.load",
        "experts.w1",
        "experts.w2",
    }
    assert torch.equal(values["experts.w1"], layer.experts.w1[3])
    values["experts.w1"].zero_()
    assert layer.experts.w1[3].abs().sum() > 0


def test_every_tensor_with_a_slot_axis_is_named() -> None:
    layer = make_layer(num_experts=7, router=RouterConfig(noisy=True))
    by_slot = {name for name, t in layer.named_parameters() if t.shape[:1] == (7,)}
    by_slot |= {name for name, t in layer.named_buffers() if t.shape[:1] == (7,)}
    assert set(layer.slot_tensors()) == by_slot
    assert all(len(tensor) == 7 for tensor in layer.slot_tensors().values())


def test_insertion_appends_and_keeps_parameters_and_buffers() -> None:
    layer = make_layer(router=RouterConfig(noisy=True, loss_free=True))
    before = {name: tensor.detach().clone() for name, tensor in layer.slot_tensors().items()}
    values = read_expert(layer, 1)
    assert insert_expert(layer, values) == 5
    assert layer.num_experts == 6
    for name, tensor in layer.slot_tensors().items():
        assert isinstance(tensor, nn.Parameter) == isinstance(
            dict(layer.named_parameters()).get(name), nn.Parameter
        )
        assert torch.equal(tensor[:5], before[name])
        assert torch.equal(tensor[5], values[name])
    assert {n for n, _ in layer.named_parameters()} == {
        "router.weight",
        "router.noise_weight",
        "experts.w1",
        "experts.w2",
    }
    assert "router.load" not in layer.state_dict()
    assert all(p.is_leaf and p.requires_grad for p in layer.parameters())


def test_removal_keeps_the_order_of_the_others_and_returns_the_expert() -> None:
    layer = make_layer()
    before = {name: tensor.detach().clone() for name, tensor in layer.slot_tensors().items()}
    removed = remove_expert(layer, 1)
    for name, tensor in layer.slot_tensors().items():
        assert torch.equal(tensor, before[name][[0, 2, 3, 4]])
        assert torch.equal(removed[name], before[name][1])


def test_what_was_removed_can_be_put_back() -> None:
    layer = make_layer()
    x = tokens(16)
    before = layer(x)[0]
    insert_expert(layer, remove_expert(layer, 4))
    assert torch.equal(layer(x)[0], before)


@pytest.mark.parametrize("num_experts", [5, 16, 17])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_removing_an_unselected_expert_is_not_felt(num_experts: int, top_k: int) -> None:
    chosen_alone = RouterConfig(gate_order=GateOrder.topk_then_softmax)
    size = {"num_experts": num_experts, "top_k": top_k, "d_model": 64, "d_ff": 64}
    layer = make_layer(router=chosen_alone, **size)
    layer.router.logit_offset[2] = -1e4
    x = tokens(48, d_model=64)
    before = layer(x)[0]
    remove_expert(layer, 2)
    assert torch.equal(layer(x)[0], before)


@pytest.mark.parametrize("num_experts", [5, 16, 17])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_removing_an_expert_without_probability_leaves_all_but_rounding(
    num_experts: int, top_k: int
) -> None:
    of_all = RouterConfig(gate_order=GateOrder.softmax_then_topk)
    size = {"num_experts": num_experts, "top_k": top_k, "d_model": 64, "d_ff": 64}
    layer = make_layer(router=of_all, **size)
    layer.router.logit_offset[2] = -1e4
    x = tokens(48, d_model=64)
    before = layer(x)[0].detach()
    remove_expert(layer, 2)
    assert float((layer(x)[0].detach() - before).norm() / before.norm()) <= 1e-6


@pytest.mark.parametrize("num_experts", [2, 3, 5, 9, 16, 17, 33])
def test_the_logits_of_the_others_keep_their_bits(num_experts: int) -> None:
    layer = make_layer(num_experts=num_experts, top_k=1, d_model=64)
    x_TD = tokens(48, d_model=64)[0]
    before = layer.router.logits(x_TD)
    remove_expert(layer, num_experts - 1)
    assert torch.equal(layer.router.logits(x_TD), before[:, :-1])


@pytest.mark.parametrize("order", list(GateOrder))
def test_layer_matches_the_reference_after_edits(order: GateOrder) -> None:
    layer = make_layer(router=RouterConfig(gate_order=order))
    remove_expert(layer, 0)
    insert_expert(layer, read_expert(layer, 2) | {"router.weight": torch.randn(8)})
    remove_expert(layer, 1)
    assert_same_values_and_gradients(layer, tokens(24))


def make_gpt(experts: list[int] | None = None) -> GPT:
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=8, num_experts=4)
    generator = torch.Generator().manual_seed(0)
    return GPT(config, RouterConfig(), 11, experts_per_layer=experts, generator=generator)


def step(model: GPT, tokens_BS: Tensor) -> Tensor:
    loss = model(tokens_BS[:, :-1], tokens_BS[:, 1:]).loss
    assert isinstance(loss, Tensor)
    torch.autograd.backward(loss)
    return loss


def test_a_model_trains_on_after_edits_of_one_layer() -> None:
    model, batch = make_gpt(), torch.arange(18).view(2, 9) % 11
    step(model, batch)
    first, second = model.moe_layers()
    remove_expert(first, 1)
    insert_expert(second, read_expert(second, 0))
    assert [layer.num_experts for layer in model.moe_layers()] == [3, 5]
    model.zero_grad()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        losses.append(step(model, batch).item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


def test_an_edited_model_loads_into_one_built_with_its_population() -> None:
    model, batch = make_gpt(), torch.arange(16).view(2, 8) % 11
    remove_expert(model.moe_layers()[0], 1)
    insert_expert(model.moe_layers()[1], read_expert(model.moe_layers()[1], 0))
    rebuilt = make_gpt([layer.num_experts for layer in model.moe_layers()])
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(model(batch).logits, rebuilt(batch).logits)


SLOT_RULE = "expected 0 <= slot < num_experts=5; slots move up when an expert leaves"


@pytest.mark.parametrize("edit", [read_expert, remove_expert])
@pytest.mark.parametrize("slot", [-1, 5])
def test_a_slot_that_is_not_live_is_refused(
    edit: Callable[[MoELayer, int], object], slot: int
) -> None:
    layer = make_layer()
    with pytest.raises(IndexError) as caught:
        edit(layer, slot)
    assert str(caught.value) == f"population: slot={slot}, {SLOT_RULE}"
    assert layer.num_experts == 5


def test_an_expert_with_a_missing_tensor_is_refused() -> None:
    layer = make_layer()
    values = read_expert(layer, 0)
    del values["experts.w1"]
    with pytest.raises(ValueError) as caught:
        insert_expert(layer, values)
    assert str(caught.value) == (
        "insert_expert: names experts.w1 are not on both sides, expected values for exactly "
        "experts.w1, experts.w2, router.load, router.logit_offset, router.selection_bias, "
        "router.weight; start from read_expert"
    )


def test_an_expert_of_another_shape_is_refused() -> None:
    layer = make_layer()
    values = read_expert(layer, 0) | {"experts.w1": torch.zeros(3)}
    with pytest.raises(ValueError) as caught:
        insert_expert(layer, values)
    assert str(caught.value) == (
        "insert_expert: experts.w1 has shape [3], expected [8, 16]; start from read_expert"
    )


def test_top_k_stays_reachable() -> None:
    layer = make_layer(num_experts=2, top_k=2)
    with pytest.raises(ValueError) as caught:
        remove_expert(layer, 0)
    assert str(caught.value) == (
        "remove_expert: num_experts=2, expected > top_k=2; insert an expert first"
    )
