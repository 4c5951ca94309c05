"""A run's figures as one line that fits a given width."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LAYER = re.compile(r"moe/L(\d+)/(\w+)")
STEERING_FLOOR = 0.005  # below it, two decimals would show 0.00


@dataclass(frozen=True)
class Part:
    """One figure of a line; where room is short, the highest ``rank`` goes first."""

    text: str
    rank: int


def over_layers(metrics: Mapping[str, float], name: str) -> list[float]:
    """Return a per-layer metric of all layers, in their order."""
    found = [(key, match) for key in metrics if (match := _LAYER.fullmatch(key))]
    layers = sorted((int(match[1]), key) for key, match in found if match[2] == name)
    return [metrics[key] for _, key in layers]


def experts_alive(metrics: Mapping[str, float]) -> str:
    """Return ``alive/all`` over all layers; empty when routing is not observed."""
    total = sum(over_layers(metrics, "num_experts"))
    dead = sum(over_layers(metrics, "dead_expert_count"))
    return f"{total - dead:.0f}/{total:.0f}" if total else ""


def tokens_rate(tokens_per_second: float) -> str:
    """Return a speed in three digits or so: ``870 tok/s``, ``12.3k tok/s``, ``1.2M tok/s``."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if tokens_per_second >= limit:
            return f"{tokens_per_second / limit:.1f}{unit} tok/s"
    return f"{tokens_per_second:.0f} tok/s"


def duration(seconds: float) -> str:
    """Return a time as ``m:ss`` or ``h:mm:ss``; empty when unknown (not finite)."""
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def figures(metrics: Mapping[str, float], eta_seconds: float = math.nan) -> list[Part]:
    """Return losses, speed, time left, experts alive, and what steers the routing when it does."""
    parts = []
    if "train/loss" in metrics:
        parts.append(Part(f"loss {metrics['train/loss']:.3f}", 1))
    if "val/loss" in metrics:
        parts.append(Part(f"val {metrics['val/loss']:.3f}", 2))
    if "tokens_per_second" in metrics:
        parts.append(Part(tokens_rate(metrics["tokens_per_second"]), 6))
    if eta := duration(eta_seconds):
        parts.append(Part(f"eta {eta}", 7))
    if alive := experts_alive(metrics):
        parts.append(Part(f"experts {alive}", 3))
    for rank, (name, label) in enumerate((("pressure", "pressure"), ("lens_scale", "lens")), 4):
        highest = max(over_layers(metrics, name), default=0.0)
        if highest >= STEERING_FLOOR:
            parts.append(Part(f"{label} {highest:.2f}", rank))
    return parts


def fit(parts: Sequence[Part], width: int) -> str:
    """Join the parts within ``width`` columns: closer together first, then fewer of them."""
    kept = list(parts)
    while kept:
        for gap in ("  ", " "):
            line = gap.join(part.text for part in kept)
            if len(line) <= width:
                return line
        kept.remove(max(kept, key=lambda part: part.rank))
    return ""


def progress_line(
    step: int,
    max_steps: int,
    metrics: Mapping[str, float],
    *,
    eta_seconds: float = math.nan,
    width: int = 80,
) -> str:
    """Return a step and its figures as one plain line of at most ``width`` columns."""
    return fit([Part(f"step {step}/{max_steps}", 0), *figures(metrics, eta_seconds)], width)
