"""A slow, plain MoE layer to hold the fast one to: loops over tokens and choices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from chronorun.config.model import GateOrder, ModelConfig, RouterConfig
from chronorun.model import MoELayer


def make_layer(
    *,
    num_experts: int = 5,
    top_k: int = 2,
    d_model: int = 8,
    d_ff: int = 16,
    seed: int = 0,
    router: RouterConfig | None = None,
) -> MoELayer:
    """Return a layer with weights large enough that routing and gates are far from uniform."""
    config = ModelConfig(
        d_model=d_model, n_heads=1, d_ff=d_ff, num_experts=num_experts, top_k=top_k
    )
    layer = MoELayer(0, config, router or RouterConfig(), num_experts)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            scale = 0.5 if "experts" in name else 1.0
            parameter.normal_(0.0, scale, generator=generator)
    return layer


def tokens(T: int, d_model: int = 8, seed: int = 1) -> Tensor:
    """Return [1, T, D] inputs that ask for a gradient."""
    x = torch.randn(1, T, d_model, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_()


def reference(layer: MoELayer, x_BSD: Tensor, capacity: int | None = None) -> Tensor:
    """Compute the layer's output one token and one choice at a time."""
    order = layer.router.config.gate_order.order(layer.top_k)
    x_TD = x_BSD.flatten(0, -2)
    logits_TE = x_TD @ layer.router.weight.t() + layer.router.logit_offset
    choices = [_choose(layer, logits) for logits in logits_TE]
    room = [capacity if capacity is not None else len(x_TD) * layer.top_k] * layer.num_experts
    parts: list[list[Tensor]] = [[] for _ in x_TD]
    for k in range(layer.top_k):
        for t, (x, logits) in enumerate(zip(x_TD, logits_TE, strict=True)):
            chosen = choices[t]
            expert = chosen[k]
            over = chosen if order is GateOrder.topk_then_softmax else slice(None)
            gate = logits[expert].exp() / logits[over].exp().sum()
            if room[expert] > 0:
                hidden = F.gelu(x @ layer.experts.w1[expert])
                parts[t].append(gate * (hidden @ layer.experts.w2[expert]))
            room[expert] -= 1
    rows = [torch.stack(p).sum(0) if p else torch.zeros_like(x_TD[0]) for p in parts]
    return torch.stack(rows).view_as(x_BSD)


def _choose(layer: MoELayer, logits_E: Tensor) -> list[int]:
    scores = logits_E.detach()
    if layer.router.config.loss_free:
        scores = scores.softmax(-1) + layer.router.selection_bias
    return sorted(range(layer.num_experts), key=lambda e: -scores[e].item())[: layer.top_k]


def assert_same_values_and_gradients(
    layer: MoELayer, x_BSD: Tensor, capacity: int | None = None
) -> None:
    """Compare output and the gradients of input, router and both expert weights."""
    wanted = [x_BSD, layer.router.weight, layer.experts.w1, layer.experts.w2]
    weights = torch.randn(x_BSD.shape, generator=torch.Generator().manual_seed(7))
    fast = layer(x_BSD)[0]
    slow = reference(layer, x_BSD, capacity)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    fast_grads = torch.autograd.grad((fast * weights).sum(), wanted)
    slow_grads = torch.autograd.grad((slow * weights).sum(), wanted, materialize_grads=True)
    for one, other in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
