"""The contenders of the benchmarks are what they claim to be."""

from __future__ import annotations

import pytest
import torch
from performance.models import check_equal_flops, moe_layer, preset_config
from performance.skew import choices, force
from reference_onehot import OneHotMoE
from unit.model.moe_reference import make_layer, tokens


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_one_hot_layer_equals_ours_where_nothing_is_dropped(top_k: int) -> None:
    layer = make_layer(top_k=top_k)
    reference = OneHotMoE(layer, capacity_factor=100.0)
    x = tokens(24)
    wanted = [x, layer.router.weight, layer.experts.w1, layer.experts.w2]
    one, other = layer(x), reference(x)
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(one[1].load_balancing_loss, other[1].load_balancing_loss)
    gradients = [torch.autograd.grad(y[0].square().sum(), wanted) for y in (one, other)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_hot_layer_drops_what_is_beyond_its_capacity() -> None:
    layer = make_layer(top_k=1)
    layer.router.logit_offset[2] = 50.0
    out = OneHotMoE(layer, capacity_factor=1.25)(tokens(20))[0]
    # 1.25 * 20 / 5 = 5 tokens of expert 2; all others are dropped.
    assert out[0].abs().sum(-1).count_nonzero() == 5


@pytest.mark.parametrize("preset", ["nano", "small", "medium"])
def test_dense_contender_counts_equal_active_flops(preset: str) -> None:
    assert check_equal_flops(preset_config(preset)) > 0


@pytest.mark.parametrize(("kind", "largest"), [("balanced", 0.125), ("skewed", 0.5)])
def test_a_forced_layer_sends_the_claimed_share_to_its_fullest_expert(
    kind: str, largest: float
) -> None:
    layer = moe_layer(preset_config("nano"), 8)
    force(layer, choices(kind, 512, 8))
    routing, _, _ = layer.route(torch.randn(512, 64))
    assert routing.tokens_per_expert_E.max() / routing.tokens_per_expert_E.sum() == largest
    assert all(len(set(pair)) == 2 for pair in routing.expert_index_KT.t().tolist())
