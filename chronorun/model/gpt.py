"""A small GPT whose every ``moe_stride``-th block has an MoE layer in place of its MLP.

Pre-norm blocks, rotary attention, RMS norms, no biases, input and output embeddings tied; after
nanoMoE (Cameron Wolfe's extension of nanoGPT). MoE layers are counted from 0: that is their
layer_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.model.attention import CausalSelfAttention
from chronorun.model.moe import MoELayer
from chronorun.model.shapes import RouterLosses


@dataclass(frozen=True)
class GPTOutput:
    """Logits [B, S, V] (None in training), mean cross-entropy in nats, mean auxiliary losses."""

    logits: Tensor | None
    loss: Tensor | None
    load_balancing_loss: Tensor
    router_z_loss: Tensor


class MLP(nn.Module):
    """Dense two-layer GELU MLP."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Transform each token: [B, S, D] -> [B, S, D]."""
        out: Tensor = self.down(F.gelu(self.up(x_BSD)))
        return out


class Block(nn.Module):
    """Attention, then an MoE layer or a dense MLP, each after a norm and around a residual."""

    def __init__(self, config: ModelConfig, feed_forward: MoELayer | MLP) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.d_model, eps=1e-6)
        self.attention = CausalSelfAttention(
            config.d_model, config.n_heads, config.context_length, config.dropout
        )
        self.norm2 = nn.RMSNorm(config.d_model, eps=1e-6)
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, RouterLosses | None]:
        """Return the block's output [B, S, D] and, for an MoE block, its auxiliary losses."""
        x_BSD = x_BSD + self.dropout(self.attention(self.norm1(x_BSD)))
        y = self.feed_forward(self.norm2(x_BSD))
        y_BSD, losses = y if isinstance(y, tuple) else (y, None)
        return x_BSD + self.dropout(y_BSD), losses


class GPT(nn.Module):
    """Decoder-only language model with a live population of experts in each MoE layer."""

    def __init__(
        self,
        model: ModelConfig,
        router: RouterConfig,
        vocab_size: int,
        *,
        experts_per_layer: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = model
        self.vocab_size = vocab_size
        population = experts_per_layer or [model.num_experts] * model.num_moe_layers
        if len(population) != model.num_moe_layers:
            raise ValueError(
                f"model: experts_per_layer has {len(population)} entries, expected "
                f"{model.num_moe_layers}; give one number per MoE layer"
            )
        self.embedding = nn.Embedding(vocab_size, model.d_model)
        blocks: list[Block] = []
        for index in range(model.n_layers):
            layer_id, rest = divmod(index + 1, model.moe_stride)
            ff: MoELayer | MLP
            if rest == 0:
                ff = MoELayer(layer_id - 1, model, router, population[layer_id - 1])
            else:
                ff = MLP(model.d_model, model.top_k * model.ff_width)
            blocks.append(Block(model, ff))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(model.d_model, eps=1e-6)
        self.initialize(generator)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw all weights from N(0, 0.02), residual outputs scaled by 1/sqrt(2 layers) (GPT-2)."""
        residual = 0.02 / (2 * self.config.n_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif name.endswith("noise_weight"):
                parameter.zero_()
            else:
                is_output = name.endswith(("attention.out.weight", "down.weight", "experts.w2"))
                parameter.normal_(0.0, residual if is_output else 0.02, generator=generator)

    def moe_layers(self) -> list[MoELayer]:
        """Return the MoE layers in order; a layer's index is its ``layer_id``."""
        return [m for m in self.modules() if isinstance(m, MoELayer)]

    def parameter_counts(self) -> dict[str, int]:
        """Return all parameters and those one token uses (top-k of the experts)."""
        total = sum(p.numel() for p in self.parameters())
        idle = 0
        for layer in self.moe_layers():
            per_expert = sum(p.numel() for p in layer.experts.parameters()) // layer.num_experts
            idle += per_expert * (layer.num_experts - min(layer.top_k, layer.num_experts))
        return {"total": total, "active": total - idle}

    def pass_blocks(self, tokens_BS: Tensor) -> tuple[Tensor, RouterLosses]:
        """Return what the last block puts out, [B, S, D], and the layers' mean router losses."""
        x_BSD = self.embedding(tokens_BS)
        balancing: list[Tensor] = []
        z: list[Tensor] = []
        for block in self.blocks:
            x_BSD, losses = block(x_BSD)
            if losses is not None:
                balancing.append(losses.load_balancing_loss)
                z.append(losses.router_z_loss)
        return x_BSD, RouterLosses(torch.stack(balancing).mean(), torch.stack(z).mean())

    def forward(self, tokens_BS: Tensor, targets_BS: Tensor | None = None) -> GPTOutput:
        """Predict each next token; with targets, the loss instead of the logits."""
        x_BSD, losses = self.pass_blocks(tokens_BS)
        logits = F.linear(self.norm(x_BSD), self.embedding.weight)
        lb_loss, z_loss = losses.load_balancing_loss, losses.router_z_loss
        if targets_BS is None:
            return GPTOutput(logits, None, lb_loss, z_loss)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets_BS.flatten())
        return GPTOutput(None, loss, lb_loss, z_loss)
