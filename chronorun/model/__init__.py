"""The GPT with Mixture-of-Experts layers and a live expert population."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.core.exports import lazy_exports

if TYPE_CHECKING:
    from chronorun.model.gpt import GPT, GPTOutput
    from chronorun.model.moe import MoELayer
    from chronorun.model.router import Router
    from chronorun.model.shapes import RouterLosses, Routing

__all__ = ["GPT", "GPTOutput", "MoELayer", "Router", "RouterLosses", "Routing"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "GPT": "gpt",
        "GPTOutput": "gpt",
        "MoELayer": "moe",
        "Router": "router",
        "RouterLosses": "shapes",
        "Routing": "shapes",
    },
)
