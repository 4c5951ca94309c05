"""An exclusive pair takes part in the routing as its parent did alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from unit.model.moe_reference import make_layer, tokens

from chronorun.config.model import RouterConfig
from chronorun.model import MoELayer, Twin, insert_expert, read_expert

PARENT = 1


def split(layer: MoELayer) -> Twin:
    """Give the parent a zero-noise child as its exclusive twin."""
    child = insert_expert(layer, read_expert(layer, PARENT))
    width = layer.router.weight.shape[1]
    direction = torch.nn.functional.normalize(torch.arange(1.0, width + 1), dim=0)
    twin = Twin(PARENT, child, direction, torch.tensor(0.05))
    layer.set_twins([twin])
    return twin


def losses(layer: MoELayer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, aux = layer(x)
    return y, aux.load_balancing_loss, aux.router_z_loss


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_split_without_noise_changes_neither_output_nor_losses(top_k: int) -> None:
    torch.manual_seed(0)
    layer = make_layer(num_experts=4, top_k=top_k)
    x = tokens(64)
    before = losses(layer, x)
    split(layer)
    for old, new in zip(before, losses(layer, x), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-6, atol=1e-6)


def test_a_split_drops_what_was_dropped_before() -> None:
    layer = make_layer(num_experts=4, top_k=2, router=RouterConfig(capacity_factor=0.7))
    x = tokens(64)
    kept_KT = layer.route(x.flatten(0, -2))[0].kept_KT
    assert kept_KT is not None
    assert not kept_KT.all()
    y = layer(x)[0]
    split(layer)
    routing = layer.route(x.flatten(0, -2))[0]
    assert routing.kept_KT is not None
    assert torch.equal(routing.kept_KT, kept_KT)
    torch.testing.assert_close(layer(x)[0], y, rtol=1e-6, atol=1e-6)


def test_a_pair_carries_one_load_for_loss_free_balancing() -> None:
    layer = make_layer(num_experts=4, top_k=2, router=RouterConfig(loss_free=True))
    layer(tokens(64))
    before = layer.router.load.clone()
    layer.router.load.zero_()
    split(layer)
    layer(tokens(64))
    assert layer.router.load.tolist() == [*before.tolist(), 0]


def test_the_side_of_the_plane_picks_the_member() -> None:
    torch.manual_seed(0)
    layer = make_layer(num_experts=4, top_k=2)
    x_TD = tokens(64).flatten(0, -2)
    chosen_T = (layer.route(x_TD)[0].expert_index_KT == PARENT).any(0)
    twin = split(layer)
    index_KT = layer.route(x_TD)[0].expert_index_KT
    beyond_T = x_TD @ twin.direction_D > twin.threshold
    assert 0 < int((chosen_T & beyond_T).sum()) < int(chosen_T.sum())
    assert torch.equal((index_KT == twin.child).any(0), chosen_T & beyond_T)
    assert torch.equal((index_KT == PARENT).any(0), chosen_T & ~beyond_T)


def test_the_rows_of_a_child_get_no_gradient() -> None:
    torch.manual_seed(0)
    layer = make_layer(num_experts=4, top_k=2)
    twin = split(layer)
    y, balance, z = losses(layer, tokens(64))
    (y.square().mean() + balance + z).backward()
    assert layer.router.weight.grad is not None
    assert not layer.router.weight.grad[twin.child].any()
    assert torch.isfinite(layer.router.weight.grad).all()
    assert layer.router.weight.grad[PARENT].any()


def test_a_pair_counts_as_one_group() -> None:
    layer = make_layer(num_experts=4, top_k=2)
    split(layer)
    assert (layer.num_experts, layer.num_groups) == (5, 4)
    layer.set_twins([])
    assert layer.num_groups == 5
