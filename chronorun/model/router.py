"""Top-k router with a live population of experts.

Two buffers are moved together with the weight rows by structural edits and checkpointed with them:
``logit_offset`` is added to the logits before softmax and top-k (ramps of newborn experts,
stress), ``selection_bias`` moves the selection only (loss-free balancing, Wang et al. 2024,
arXiv:2408.15664; their scores are sigmoids, ours the entries of the full softmax).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronorun.config.model import GateOrder, RouterConfig

_ROW_MULTIPLE = 16
"""GEMM kernels round differently for different row counts; zero rows keep the count steady, so that
removing an expert that no token selects leaves every other logit bit-equal."""


class Router(nn.Module):
    """Scores experts for each token and chooses K of them."""

    logit_offset: Tensor
    selection_bias: Tensor
    load: Tensor

    def __init__(self, d_model: int, num_experts: int, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))
        self.noise_weight = (
            nn.Parameter(torch.zeros(num_experts, d_model)) if config.noisy else None
        )
        self.register_buffer("logit_offset", torch.zeros(num_experts))
        self.register_buffer("selection_bias", torch.zeros(num_experts))
        # Assignments since the last bias update; int64 so that any order of adding gives the same.
        load = torch.zeros(num_experts, dtype=torch.int64)
        self.register_buffer("load", load, persistent=False)

    def logits(self, x_TD: Tensor) -> Tensor:
        """Return float32 logits [T, E] of float32 inputs, offsets included."""
        E = self.weight.shape[0]
        rows = F.pad(self.weight, (0, 0, 0, -E % _ROW_MULTIPLE))
        logits_TE = (x_TD @ rows.t())[:, :E] + self.logit_offset
        if self.noise_weight is not None and self.training:
            scale_TE = F.softplus(x_TD @ self.noise_weight.t())
            logits_TE = logits_TE + torch.randn_like(logits_TE) * scale_TE
        return logits_TE

    def choose(self, logits_TE: Tensor, probs_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Return (expert_index_KT int64, gate_KT float32), best choice first.

        Gates are a softmax over the chosen logits (nanoMoE) or the chosen entries of the full
        softmax, as the config's ``gate_order`` says for this top-k, which a scenario may change.
        The selection bias never enters the gates.
        """
        scores_TE = logits_TE
        if self.config.loss_free:
            # A bias must not bring back what a logit of -inf rules out.
            out_TE = torch.isneginf(logits_TE)
            scores_TE = (probs_TE + self.selection_bias).masked_fill(out_TE, -torch.inf)
        index_TK = scores_TE.topk(top_k, dim=-1).indices
        if self.config.gate_order.order(top_k) is GateOrder.topk_then_softmax:
            gate_TK = torch.softmax(logits_TE.gather(-1, index_TK), dim=-1)
        else:
            gate_TK = probs_TE.gather(-1, index_TK)
        return index_TK.t().contiguous(), gate_TK.t()

    @torch.no_grad()
    def update_selection_bias(self, num_groups: int | None = None) -> None:
        """Step the bias of each expert towards its even share of the load since the last call.

        The share is even among ``num_groups`` (default: all experts).
        """
        if not self.config.loss_free:
            return
        load = self.load.to(self.selection_bias.dtype)
        error = load.sum() / (num_groups or load.numel()) - load
        self.selection_bias.add_(self.config.bias_update_rate * torch.sign(error))
        self.load.zero_()
