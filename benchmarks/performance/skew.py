"""Skewed routing against balanced: one expert takes half of all assignments."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from chronorun.model import GPT, MoELayer
from performance.models import BATCH, build, layer_step, moe_layer, preset_config, step_of
from performance.rows import Row, ratio_row
from performance.timing import interleave

CERTAIN = 1e3
"""Logit that decides the choice."""


def choices(kind: str, tokens: int, num_experts: int) -> Tensor:
    """Return [tokens, 2] experts: even, or expert 0 for every token, half of all assignments."""
    token_T = torch.arange(tokens)
    if kind == "balanced":
        return torch.stack([2 * token_T, 2 * token_T + 1], dim=1) % num_experts
    return torch.stack([torch.zeros_like(token_T), 1 + token_T % (num_experts - 1)], dim=1)


def force(layer: MoELayer, index_TK: Tensor) -> None:
    """Make a layer choose these experts, whatever its router says."""
    assert layer.top_k == index_TK.shape[1]
    push_TE = torch.zeros(len(index_TK), layer.num_experts).scatter_(1, index_TK, CERTAIN)
    layer.routing_override = partial(torch.add, push_TE)


def measure(quick: bool) -> list[Row]:
    """Return skewed / balanced of a step at small, and of a layer of 64 experts."""
    config, batch = preset_config("small"), BATCH["small"]
    tokens, rounds = batch * config.context_length, 5 if quick else 15
    steps, layers = {}, {}
    for kind in ("skewed", "balanced"):
        model: GPT = build("ours", config)
        for layer in model.moe_layers():
            force(layer, choices(kind, tokens, layer.num_experts))
        steps[kind] = step_of(model, config, batch)
        wide = moe_layer(config, 64)
        force(wide, choices(kind, tokens, 64))
        layers[kind] = layer_step(wide, config, batch)
    whole, alone = interleave(steps, rounds), interleave(layers, rounds, turns=5)
    note = "one expert takes 50% of the assignments"
    return [
        ratio_row("skew", name, s["skewed"], s["balanced"], note=note)
        for name, s in (
            ("step, skewed / balanced, small", whole),
            ("layer of 64 experts, skewed / balanced", alone),
        )
    ]
