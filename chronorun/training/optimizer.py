"""AdamW over the model's parameters."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from chronorun.config.training import OptimizerConfig


class EagerAdamW(torch.optim.AdamW):
    """Torch's AdamW (Loshchilov & Hutter 2019) for steps outside compiled functions.

    Torch wraps these methods for the sake of ``torch.compile``, and so every optimizer imports the
    compiler: 1.5 s of CPU and 65 MB that is not used here. The methods themselves are torch's.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: to matrices that mix features.

    Norms are left out, as in GPT-2, and so are two kinds of matrices whose rows get little gradient
    while they are not used: embedding rows (decay would fade rare tokens) and router rows (decay
    would shrink the logits of neglected experts, a force on the routing that telemetry could not
    tell from learning).
    """
    return parameter.ndim >= 2 and "embedding" not in name and ".router." not in name


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return fused AdamW with a decayed and an undecayed group."""
    named = list(model.named_parameters())
    groups = [
        {
            "params": [p for name, p in named if decays(name, p)],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    return EagerAdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )
