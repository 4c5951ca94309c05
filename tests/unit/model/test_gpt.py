"""The GPT: causality, initialization, population per layer, resume of loss-free balancing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.model import GPT
from chronorun.model.attention import rotary_tables, rotate


def make_gpt(
    *,
    experts_per_layer: list[int] | None = None,
    router: RouterConfig | None = None,
    seed: int = 0,
    stride: int = 1,
) -> GPT:
    config = ModelConfig(
        n_layers=4, d_model=16, n_heads=2, context_length=12, num_experts=4, moe_stride=stride
    )
    return GPT(
        config,
        router or RouterConfig(),
        vocab_size=11,
        experts_per_layer=experts_per_layer,
        generator=torch.Generator().manual_seed(seed),
    )


def batch(seed: int = 0) -> Tensor:
    return torch.randint(11, (2, 13), generator=torch.Generator().manual_seed(seed))


def logits_of(model: GPT, tokens: Tensor) -> Tensor:
    logits = model(tokens).logits
    assert isinstance(logits, Tensor)
    return logits


def test_future_tokens_do_not_matter() -> None:
    model = make_gpt().eval()
    one = batch()[:, :12]
    other = one.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 11
    a, b = logits_of(model, one), logits_of(model, other)
    torch.testing.assert_close(a[:, :7], b[:, :7], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(a[:, 7:], b[:, 7:])


def test_past_tokens_matter() -> None:
    model = make_gpt().eval()
    one = batch()[:, :12]
    other = one.clone()
    other[:, 0] = (other[:, 0] + 1) % 11
    assert not torch.equal(logits_of(model, one)[:, 11], logits_of(model, other)[:, 11])


def test_rotary_scores_depend_on_the_distance_only() -> None:
    tables = rotary_tables(16, 8)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = rotate(q.expand(16, 8), tables), rotate(k.expand(16, 8), tables)
    scores = turned_q @ turned_k.t()
    torch.testing.assert_close(scores[5, 2], scores[15, 12])
    torch.testing.assert_close(scores[0, 0], q @ k)
    assert not torch.isclose(scores[5, 2], scores[5, 4])


def test_initialization_is_a_pure_function_of_the_generator() -> None:
    torch.manual_seed(1)
    one = make_gpt(seed=3)
    torch.manual_seed(2)
    other = make_gpt(seed=3)
    different = make_gpt(seed=4)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert not torch.equal(one.embedding.weight, different.embedding.weight)


def test_initial_loss_is_near_that_of_a_uniform_guess() -> None:
    tokens = batch()
    out = make_gpt()(tokens[:, :-1], tokens[:, 1:])
    assert out.loss.item() == pytest.approx(torch.tensor(11.0).log().item(), abs=0.2)


def test_loss_is_the_cross_entropy_of_the_logits() -> None:
    model, tokens = make_gpt(), batch()
    logits = logits_of(model, tokens[:, :-1])
    loss = model(tokens[:, :-1], tokens[:, 1:]).loss
    picked = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])
    torch.testing.assert_close(loss, -picked.mean())


def test_moe_layers_are_counted_from_zero() -> None:
    model = make_gpt(stride=2)
    assert [layer.layer_id for layer in model.moe_layers()] == [0, 1]
    assert [hasattr(block.feed_forward, "router") for block in model.blocks] == [
        False,
        True,
        False,
        True,
    ]


def test_populations_may_differ_by_layer() -> None:
    model = make_gpt(experts_per_layer=[2, 7, 3, 5])
    assert [layer.num_experts for layer in model.moe_layers()] == [2, 7, 3, 5]
    tokens = batch()
    model(tokens[:, :-1], tokens[:, 1:]).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_parameter_counts_leave_out_idle_experts() -> None:
    model = make_gpt(experts_per_layer=[2, 7, 3, 5])
    expert = 2 * 16 * 64
    counts = model.parameter_counts()
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["total"] - counts["active"] == expert * (0 + 5 + 1 + 3)


def train(model: GPT, optimizer: torch.optim.Optimizer, steps: range) -> list[str]:
    losses = []
    for step in steps:
        tokens = batch(step)
        loss = model(tokens[:, :-1], tokens[:, 1:]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for layer in model.moe_layers():
            layer.router.update_selection_bias()
        losses.append(loss.item().hex())
    return losses


def test_loss_free_balancing_resumes_bit_equal() -> None:
    router = RouterConfig(loss_free=True, bias_update_rate=0.05)
    model = make_gpt(router=router)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, range(5))
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    moments = optimizer.state_dict()
    resumed = make_gpt(router=router, seed=9)
    resumed.load_state_dict(saved)
    resumed_optimizer = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    resumed_optimizer.load_state_dict(
        {
            "state": {i: {k: v.clone() for k, v in s.items()} for i, s in moments["state"].items()},
            "param_groups": moments["param_groups"],
        }
    )
    assert any(layer.router.selection_bias.any() for layer in resumed.moe_layers())
    assert train(model, optimizer, range(5, 10)) == train(resumed, resumed_optimizer, range(5, 10))
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_load_is_not_part_of_the_state() -> None:
    names = make_gpt(router=RouterConfig(loss_free=True)).state_dict()
    assert not [name for name in names if name.endswith("load")]
    assert "blocks.0.feed_forward.router.selection_bias" in names


def test_bf16_autocast_stays_close_to_float32() -> None:
    model, tokens = make_gpt(), batch()
    exact = model(tokens[:, :-1], tokens[:, 1:]).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(tokens[:, :-1], tokens[:, 1:]).loss
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), abs=0.02)
