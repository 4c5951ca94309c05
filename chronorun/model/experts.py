"""The bank of experts of one layer, and the dispatch of tokens to them.

Assignments are sorted by expert, each expert multiplies its own segment, and the results return
to their places: no [tokens, experts, capacity] mask is ever built. The product is ``grouped_mm``
where the widths allow it, on every device; it writes segments in place where a loop has to join
them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Dispatch(torch.autograd.Function):
    """Gather token rows in expert order; the backward sums each token's K copies in rank order.

    A plain index_select would scatter-add in its backward: slower, and on CUDA not deterministic.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_N)
        ctx.tokens = x_TD.shape[0]
        return x_TD.index_select(0, order_N % x_TD.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse_N,) = ctx.saved_tensors
        grad_ND = grads[0].index_select(0, inverse_N)
        return grad_ND.view(-1, ctx.tokens, grad_ND.shape[-1]).sum(0), None, None


class _Permute(torch.autograd.Function):
    """Reorder rows by a permutation; the backward applies the inverse."""

    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, inverse_N: Tensor, order_N: Tensor) -> Tensor:
        ctx.save_for_backward(order_N)
        return y_ND.index_select(0, inverse_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order_N,) = ctx.saved_tensors
        return grads[0].index_select(0, order_N), None, None


def sort_by_expert(expert_index_KT: Tensor) -> tuple[Tensor, Tensor]:
    """Return (order_N, inverse_N): stable order of the K-major assignments by expert."""
    order_N = torch.argsort(expert_index_KT.flatten(), stable=True)
    inverse_N = torch.empty_like(order_N)
    inverse_N[order_N] = torch.arange(order_N.numel(), device=order_N.device)
    return order_N, inverse_N


def count_assignments(expert_index_KT: Tensor, num_experts: int) -> Tensor:
    """Return assignments per expert, [E] int64 (without the host sync of bincount on CUDA)."""
    flat = expert_index_KT.flatten()
    counts = torch.zeros(num_experts, dtype=torch.int64, device=flat.device)
    return counts.scatter_add_(0, flat, torch.ones_like(flat))


def dispatch(x_TD: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
    """Return each assignment's token row in expert order, [N, D]."""
    return _Dispatch.apply(x_TD, order_N, inverse_N)  # type: ignore[no-any-return, no-untyped-call]


def combine(y_ND: Tensor, gate_KT: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
    """Weigh expert outputs by their gates and add them per token in top-k rank order, [T, D].

    Rank order, not slot order: a structural edit that shifts slots leaves the sum bit-equal.
    """
    y_ND = _Permute.apply(y_ND, inverse_N, order_N)  # type: ignore[no-untyped-call]
    K, T = gate_KT.shape
    return (y_ND.view(K, T, -1) * gate_KT.to(y_ND.dtype)[..., None]).sum(0)


class ExpertBank(nn.Module):
    """Stacked two-layer GELU MLPs: ``w1`` [E, D, F] and ``w2`` [E, F, D], without biases."""

    def __init__(self, num_experts: int, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(num_experts, d_model, d_ff))
        self.w2 = nn.Parameter(torch.empty(num_experts, d_ff, d_model))

    def forward(self, x_ND: Tensor, tokens_per_expert_E: Tensor) -> Tensor:
        """Apply each expert to its segment of rows sorted by expert: [N, D] -> [N, D]."""
        # grouped_mm wants row strides of whole 16 bytes: widths that are multiples of 8 in bf16.
        aligned = self.w1.shape[1] % 8 == 0 and self.w1.shape[2] % 8 == 0
        if aligned:
            return self._grouped(x_ND, tokens_per_expert_E)
        return self._segments(x_ND, tokens_per_expert_E)

    def _segments(self, x_ND: Tensor, tokens_per_expert_E: Tensor) -> Tensor:
        # unbind, not w[e]: indexing would build a full-size gradient for every expert.
        sizes = tokens_per_expert_E.tolist()
        hidden = [x @ w for x, w in zip(torch.split(x_ND, sizes), self.w1.unbind(0), strict=True)]
        h_NF = F.gelu(torch.cat(hidden))
        out = [h @ w for h, w in zip(torch.split(h_NF, sizes), self.w2.unbind(0), strict=True)]
        return torch.cat(out)

    def _grouped(self, x_ND: Tensor, tokens_per_expert_E: Tensor) -> Tensor:
        # Autocast does not know grouped_mm, so the cast is ours; the fast CUDA kernel is bf16.
        ends_E = tokens_per_expert_E.cumsum(0).to(torch.int32)
        device, dtype = x_ND.device.type, x_ND.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        h_NF = F.gelu(F.grouped_mm(x_ND.to(dtype), self.w1.to(dtype), offs=ends_E))
        return F.grouped_mm(h_NF, self.w2.to(dtype), offs=ends_E)
