"""The layers that the MoE layer is measured against: one-hot dispatch, and a dense MLP.

``OneHotMoE`` is our own reference of the way nanoMoE and, before it, GShard (arXiv:2006.16668) send
tokens to experts: a mask of tokens x experts x capacity multiplies the tokens into per-expert
batches, and its weighted twin multiplies the results back. It is written without waste (the mask
is one einsum, no [choices, tokens, experts, capacity] intermediate), so that what is measured is
the method. Nothing in the package uses it.

Shapes as in ``chronorun.model.shapes``; ``C`` is the capacity of one expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronorun.model.gpt import MLP
from chronorun.model.losses import load_balancing_loss, router_z_loss
from chronorun.model.moe import MoELayer
from chronorun.model.shapes import RouterLosses


class OneHotMoE(nn.Module):
    """The same router and experts as ``layer``, dispatched by a one-hot mask.

    An expert takes at most ``capacity_factor * K * T / E`` assignments (rounded down, as nanoMoE
    does in training with a factor of 1.25); first choices come first; the rest is dropped.
    """

    def __init__(self, layer: MoELayer, capacity_factor: float = 1.25) -> None:
        super().__init__()
        self.top_k = layer.top_k
        self.capacity_factor = capacity_factor
        self.router = layer.router
        self.experts = layer.experts

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, RouterLosses]:
        """Transform tokens: [B, S, D] -> ([B, S, D], auxiliary losses)."""
        x_TD = x_BSD.flatten(0, -2)
        T, E = x_TD.shape[0], self.experts.w1.shape[0]
        logits_TE = self.router.logits(x_TD)
        probs_TE = torch.softmax(logits_TE, dim=-1)
        index_KT, gate_KT = self.router.choose(logits_TE, probs_TE, self.top_k)

        chosen_KTE = F.one_hot(index_KT, E)
        capacity = max(1, int(self.capacity_factor * self.top_k * T / E))
        place_KTE = chosen_KTE.flatten(0, 1).cumsum(0).view_as(chosen_KTE) - 1
        place_KT = (place_KTE * chosen_KTE).sum(-1)
        gate_KT = gate_KT * (place_KT < capacity)
        place_KTC = F.one_hot(place_KT.clamp(max=capacity - 1), capacity).to(x_TD.dtype)
        gates_KTE = chosen_KTE * gate_KT[..., None]
        combine_TEC = torch.einsum("kte,ktc->tec", gates_KTE, place_KTC)

        dispatch_TEC = (combine_TEC > 0).to(x_TD.dtype)
        x_ECD = torch.einsum("tec,td->ecd", dispatch_TEC, x_TD)
        y_ECD = F.gelu(x_ECD @ self.experts.w1) @ self.experts.w2
        y_TD = torch.einsum("tec,ecd->td", combine_TEC, y_ECD)
        losses = RouterLosses(
            load_balancing_loss(probs_TE, chosen_KTE.sum((0, 1)), E), router_z_loss(logits_TE)
        )
        return y_TD.view_as(x_BSD), losses


class DenseOfEqualFLOPs(nn.Module):
    """One MLP of ``top_k`` times an expert's width: the multiplications a token causes in the MoE
    layer, the router's left out.
    """

    def __init__(self, layer: MoELayer) -> None:
        super().__init__()
        _, d_model, d_ff = layer.experts.w1.shape
        self.mlp = MLP(d_model, layer.top_k * d_ff)
        for parameter in self.mlp.parameters():
            nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, RouterLosses]:
        """Transform tokens: [B, S, D] -> ([B, S, D], zeros for the auxiliary losses)."""
        zero = x_BSD.new_zeros(())
        return self.mlp(x_BSD), RouterLosses(zero, zero)
