"""Noise, balancing bias and offsets of the router; auxiliary losses against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from unit.model.moe_reference import make_layer, tokens

from chronorun.config.model import RouterConfig
from chronorun.model.losses import load_balancing_loss, router_z_loss
from chronorun.model.router import Router


def make_router(num_experts: int = 4, **options: object) -> Router:
    router = Router(8, num_experts, RouterConfig(**options))  # type: ignore[arg-type]
    with torch.no_grad():
        router.weight.normal_(generator=torch.Generator().manual_seed(0))
    return router


def test_noise_is_gaussian_with_the_softplus_scale() -> None:
    router = make_router(noisy=True)
    assert router.noise_weight is not None
    with torch.no_grad():
        router.noise_weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(2))
    clean = x @ router.weight.t()
    scale = F.softplus(x @ router.noise_weight.t())
    torch.manual_seed(3)
    noise = (router.logits(x.expand(20_000, 8)) - clean) / scale
    torch.testing.assert_close(noise.mean(0), torch.zeros(4), rtol=0, atol=0.03)
    torch.testing.assert_close(noise.std(0), torch.ones(4), rtol=0, atol=0.03)
    correlation = torch.corrcoef(noise.t().detach()) - torch.eye(4)
    assert correlation.abs().max() < 0.03


def test_noise_is_absent_in_evaluation() -> None:
    noisy, plain = make_router(noisy=True).eval(), make_router().eval()
    x = tokens(8)[0]
    assert torch.equal(noisy.logits(x), plain.logits(x))


def test_noise_scale_learns() -> None:
    layer = make_layer(router=RouterConfig(noisy=True))
    layer(tokens(16))[0].square().sum().backward()
    assert layer.router.noise_weight is not None
    assert layer.router.noise_weight.grad is not None
    assert layer.router.noise_weight.grad.abs().sum() > 0


def test_load_balancing_loss_of_a_worked_example() -> None:
    # 2 tokens to expert 0, 1 to expert 1, 1 to expert 2: f = (1/2, 1/4, 1/4).
    probs = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.0, 0.2, 0.8]])
    # P = (0.4, 0.3, 0.3); 3 * (0.2 + 0.075 + 0.075) = 1.05
    loss = load_balancing_loss(probs, torch.tensor([2, 1, 1]), 3)
    assert loss.item() == pytest.approx(1.05, abs=1e-6)


@pytest.mark.parametrize("n", [2, 8])
def test_load_balancing_loss_is_one_when_uniform_and_n_when_collapsed(n: int) -> None:
    uniform = load_balancing_loss(torch.full((16, n), 1 / n), torch.full((n,), 4), n)
    assert uniform.item() == pytest.approx(1.0)
    collapsed = F.one_hot(torch.zeros(16, dtype=torch.int64), n)
    loss = load_balancing_loss(collapsed.float(), collapsed.sum(0), n)
    assert loss.item() == pytest.approx(n)


def test_load_balancing_loss_counts_assignments_before_drops() -> None:
    options = {"capacity_factor": 0.25}
    free, capped = make_layer(), make_layer(router=RouterConfig(**options))  # type: ignore[arg-type]
    x = tokens(32)
    assert torch.equal(free(x)[1].load_balancing_loss, capped(x)[1].load_balancing_loss)


def test_z_loss_is_the_mean_squared_log_partition() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    expected = (math.log(2.0) ** 2 + math.log(4.0) ** 2) / 2
    assert router_z_loss(logits).item() == pytest.approx(expected, abs=1e-6)


def test_both_auxiliary_losses_reach_the_router_only() -> None:
    layer = make_layer()
    losses = layer(tokens(16))[1]
    (losses.load_balancing_loss + losses.router_z_loss).backward()
    assert layer.router.weight.grad is not None
    assert layer.router.weight.grad.abs().sum() > 0
    assert layer.experts.w1.grad is None


def test_offset_enters_logits_and_gates() -> None:
    layer = make_layer(top_k=2)
    x = tokens(16)[0]
    before = layer.route(x)[0]
    layer.router.logit_offset[3] = 1.0
    after = layer.route(x)[0]
    moved = after.logits_TE - before.logits_TE
    torch.testing.assert_close(moved, F.one_hot(torch.tensor(3), 5).float().expand(16, 5))
    assert after.probs_TE[:, 3].sum() > before.probs_TE[:, 3].sum()


def test_selection_bias_moves_the_choice_but_not_the_gates() -> None:
    layer = make_layer(top_k=1, router=RouterConfig(loss_free=True))
    x = tokens(16)[0]
    layer.router.selection_bias[4] = 10.0
    routing = layer.route(x)[0]
    assert set(routing.expert_index_KT[0].tolist()) == {4}
    assert torch.equal(routing.probs_TE, layer.router.logits(x).softmax(-1))


def test_bias_steps_towards_the_even_share_and_the_load_starts_anew() -> None:
    router = make_router(loss_free=True, bias_update_rate=0.5)
    router.load += torch.tensor([6, 2, 4, 4])
    router.update_selection_bias()
    assert router.selection_bias.tolist() == [-0.5, 0.5, 0.0, 0.0]
    assert router.load.tolist() == [0, 0, 0, 0]


def test_loss_free_updates_balance_a_skewed_router() -> None:
    layer = make_layer(top_k=1, router=RouterConfig(loss_free=True, bias_update_rate=0.01))
    layer.router.logit_offset[2] = 2.0
    x = tokens(256)
    first = layer.route(x[0])[0].tokens_per_expert_E
    for _ in range(150):
        layer(x)
        layer.router.update_selection_bias()
    last = layer.route(x[0])[0].tokens_per_expert_E
    assert last.max() < first.max() / 2
    assert last.max() < 1.5 * 256 / 5


def test_load_counts_training_forwards_of_loss_free_routers_only() -> None:
    plain, loss_free = make_layer(), make_layer(router=RouterConfig(loss_free=True))
    for layer in (plain, loss_free):
        layer(tokens(8))
        layer.eval()
        layer(tokens(8))
    assert plain.router.load.sum() == 0
    assert loss_free.router.load.sum() == 16


def test_an_update_without_loss_free_changes_nothing() -> None:
    router = make_router()
    router.update_selection_bias()
    assert router.selection_bias.tolist() == [0.0] * 4
