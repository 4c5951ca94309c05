"""AdamW over the model's parameters."""

from __future__ import annotations

import torch
from torch import nn

from chronorun.config.training import OptimizerConfig


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Say whether weight decay applies: to matrices that mix features.

    Norms are left out, as in GPT-2, and so are two kinds of matrices whose rows get little gradient
    while they are not used: embedding rows (decay would fade rare tokens) and router rows (decay
    would shrink the logits of neglected experts, a force on the routing that telemetry could not
    tell from learning).
    """
    return parameter.ndim >= 2 and "embedding" not in name and ".router." not in name


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return fused AdamW (Loshchilov & Hutter 2019) with a decayed and an undecayed group."""
    named = list(model.named_parameters())
    groups = [
        {
            "params": [p for name, p in named if decays(name, p)],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )
