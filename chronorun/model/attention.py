"""Causal self-attention with rotary positions (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary_tables(context_length: int, head_dim: int, base: float = 10_000.0) -> Tensor:
    """Return cos and sin of every position, stacked: [2, S, head_dim / 2], float32."""
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(context_length, dtype=torch.float64)[:, None] * frequency[None, :]
    return torch.stack([angle.cos(), angle.sin()]).float()


def rotate(x: Tensor, tables: Tensor) -> Tensor:
    """Rotate the two halves of the last dimension by each position's angle; x is [..., S, d]."""
    cos, sin = tables.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and what came before."""

    rotary: Tensor

    def __init__(self, d_model: int, n_heads: int, context_length: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        tables = rotary_tables(context_length, d_model // n_heads)
        self.register_buffer("rotary", tables, persistent=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Mix tokens: [B, S, D] -> [B, S, D]."""
        B, S, D = x_BSD.shape
        q, k, v = self.qkv(x_BSD).view(B, S, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        tables = self.rotary[:, :S]
        drop = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            rotate(q, tables), rotate(k, tables), v, dropout_p=drop, is_causal=True
        )
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, S, D))
        return out
