"""The language model (group ``model``) and its router (group ``router``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option
from chronorun.errors import UserError


class GateOrder(Enum):
    """Whether gate weights are a softmax over the chosen experts or over all of them."""

    topk_then_softmax = "topk_then_softmax"
    softmax_then_topk = "softmax_then_topk"


class GateChoice(Enum):
    """The gate order as configured; ``auto`` derives it from top-k."""

    auto = "auto"
    topk_then_softmax = "topk_then_softmax"
    softmax_then_topk = "softmax_then_topk"

    def order(self, top_k: int) -> GateOrder:
        """Return the order that a router of ``top_k`` uses.

        A softmax over one chosen logit is always 1: no gradient of the loss would reach the router.
        """
        if self is not GateChoice.auto:
            return GateOrder(self.value)
        return GateOrder.softmax_then_topk if top_k == 1 else GateOrder.topk_then_softmax


@dataclass
class ModelConfig:
    """GPT with Mixture-of-Experts layers."""

    n_layers: int = option(4, "transformer blocks", at_least=1, limit=10_000)
    d_model: int = option(128, "width of the residual stream", at_least=8, limit=65_536)
    n_heads: int = option(4, "attention heads", at_least=1, limit=65_536)
    context_length: int = option(
        128, "maximum sequence length", unit="tokens", at_least=8, limit=1_048_576
    )
    d_ff: int | None = option(
        None,
        "hidden width of an expert and of a dense MLP (null: 4 d_model)",
        at_least=1,
        limit=1_048_576,
    )
    num_experts: int = option(8, "experts per MoE layer at the start", at_least=1, limit=65_536)
    top_k: int = option(2, "experts per token", at_least=1, limit=65_536)
    moe_stride: int = option(1, "every n-th block has an MoE layer", at_least=1)
    dropout: float = option(0.0, "dropout after attention and MLP", at_least=0.0, below=1.0)

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise UserError(
                f"configuration: model.d_model={self.d_model}, expected an even multiple of "
                f"model.n_heads={self.n_heads}; change one of the two"
            )
        if self.top_k > self.num_experts:
            raise UserError(
                f"configuration: model.top_k={self.top_k}, expected <= "
                f"model.num_experts={self.num_experts}; lower top_k or add experts"
            )
        if self.moe_stride > self.n_layers:
            raise UserError(
                f"configuration: model.moe_stride={self.moe_stride}, expected <= "
                f"model.n_layers={self.n_layers}; otherwise no layer has experts"
            )

    @property
    def ff_width(self) -> int:
        """Hidden width F of one expert."""
        return self.d_ff if self.d_ff is not None else 4 * self.d_model

    @property
    def num_moe_layers(self) -> int:
        """Blocks that hold an MoE layer: the last of every ``moe_stride`` blocks."""
        return self.n_layers // self.moe_stride


@dataclass
class RouterConfig:
    """Top-k router: gate order, balancing, capacity."""

    gate_order: GateChoice = option(
        GateChoice.auto,
        "softmax over the chosen experts (topk_then_softmax; not at top_k=1, where it is "
        "always 1) or over all (softmax_then_topk); auto: over the chosen ones if top_k >= "
        "2",
    )
    noisy: bool = option(False, "noisy top-k (Shazeer et al. 2017)")
    load_balancing_coef: float = option(0.01, "weight of the load-balancing loss", at_least=0.0)
    z_loss_coef: float = option(0.001, "weight of the router z-loss", at_least=0.0)
    loss_free: bool = option(False, "loss-free balancing by a selection bias (Wang et al. 2024)")
    bias_update_rate: float = option(0.001, "step size of the loss-free bias", at_least=0.0)
    capacity_factor: float | None = option(
        None,
        "most tokens an expert takes in training, as a multiple of its even share of a "
        "micro-batch (of each process; null: dropless)",
        above=0.0,
        limit=65_536.0,
    )
    eval_capacity_factor: float | None = option(
        None,
        "the same in evaluation, probe and sampling, for a batch there (null: dropless, so "
        "that the loss does not depend on how tokens are cut into batches)",
        above=0.0,
        limit=65_536.0,
    )

    def __post_init__(self) -> None:
        check_ranges(self, "router")
        # Code may pass either enum.
        self.gate_order = GateChoice(self.gate_order.value)
