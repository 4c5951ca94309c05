"""A run's figures as one plain line of at most 80 columns."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LAYER = re.compile(r"moe/L\d+/(\w+)$")


def over_layers(metrics: Mapping[str, float], name: str) -> list[float]:
    """Return a per-layer metric of all layers, in their order."""
    keys = [key for key in metrics if (m := _LAYER.match(key)) and m[1] == name]
    return [metrics[key] for key in sorted(keys, key=lambda key: int(key.split("/")[1][1:]))]


def experts_alive(metrics: Mapping[str, float]) -> str:
    """Return ``alive/all`` over all layers; empty when routing is not observed."""
    total = sum(over_layers(metrics, "num_experts"))
    dead = sum(over_layers(metrics, "dead_expert_count"))
    return f"{total - dead:.0f}/{total:.0f}" if total else ""


def governance_figures(metrics: Mapping[str, float]) -> str:
    """Return the highest pressure and lens scale when the controller acts; empty otherwise."""
    scales = over_layers(metrics, "lens_scale")
    pressures = over_layers(metrics, "pressure")
    if not scales:
        return ""
    if max(scales) <= 0 and max(pressures) < 0.01:
        return "lens off"
    return f"pressure {max(pressures):.2f} lens {max(scales):.2f}"


def progress_line(step: int, max_steps: int, metrics: Mapping[str, float]) -> str:
    """Return step, losses, speed, experts alive and what the controller does."""
    parts = [f"step {step}/{max_steps}"]
    if "train/loss" in metrics:
        parts.append(f"loss {metrics['train/loss']:.3f}")
    if "val/loss" in metrics:
        parts.append(f"val {metrics['val/loss']:.3f}")
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second'] / 1000:.1f}k tok/s")
    if alive := experts_alive(metrics):
        parts.append(f"experts {alive}")
    if figures := governance_figures(metrics):
        parts.append(figures)
    return "  ".join(parts)
