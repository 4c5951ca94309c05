"""Auxiliary losses of a router."""

from __future__ import annotations

import torch
from torch import Tensor


def load_balancing_loss(probs_TE: Tensor, assignments_E: Tensor, num_groups: int) -> Tensor:
    """Return ``n * sum_e f_e P_e``: 1 when both are uniform, up to n when one expert takes all.

    f is the fraction of assignments per expert (before drops), P the mean full-softmax probability;
    only P carries gradient. Switch Transformer eq. 4 to 6 (Fedus et al. 2021, arXiv:2101.03961),
    with f over the K*T assignments of top-k as in nanoMoE.
    """
    fraction = assignments_E.to(probs_TE.dtype) / assignments_E.sum().clamp(min=1)
    return num_groups * torch.dot(fraction, probs_TE.mean(dim=0))


def router_z_loss(logits_TE: Tensor) -> Tensor:
    """Return the mean squared log-partition of the logits (ST-MoE eq. 5, arXiv:2202.08906)."""
    return torch.logsumexp(logits_TE, dim=-1).square().mean()
