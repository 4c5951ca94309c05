"""One MoE layer, forward and backward, by number of experts at fixed top-k, against dense."""

from __future__ import annotations

from reference_onehot import DenseOfEqualFLOPs

from performance.models import BATCH, layer_step, moe_layer, preset_config
from performance.rows import Row, ratio_row
from performance.timing import interleave

EXPERTS = (4, 8, 16, 32, 64, 128)
GOALS = {64: (1.8, 1.45)}  # experts -> (must, aim)


def measure(quick: bool) -> list[Row]:
    """Return layer / dense for each number of experts, medium only in a full run."""
    rows = measure_preset("small", EXPERTS, rounds=3 if quick else 11, turns=5)
    return rows if quick else rows + measure_preset("medium", EXPERTS, rounds=15, turns=1)


def measure_preset(preset: str, experts: tuple[int, ...], rounds: int, turns: int) -> list[Row]:
    """Return the rows of one preset's layer."""
    config, batch = preset_config(preset), BATCH[preset]
    layers = {str(n): moe_layer(config, n) for n in experts}
    steps = {name: layer_step(layer, config, batch) for name, layer in layers.items()}
    steps["dense"] = layer_step(DenseOfEqualFLOPs(next(iter(layers.values()))), config, batch)
    seconds = interleave(steps, rounds, turns)
    return [
        ratio_row(
            "experts",
            f"layer of {n} experts / dense, {preset}",
            seconds[str(n)],
            seconds["dense"],
            must=GOALS.get(n, (None, None))[0],
            aim=GOALS.get(n, (None, None))[1],
            note=f"{n * weights / 2**20:.0f} MiB of weights",
            limit="they are read, and gradients of all of them written, in every step",
        )
        for weights in (8 * config.d_model * config.ff_width,)
        for n in experts
    ]
