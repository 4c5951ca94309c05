"""The GPT with Mixture-of-Experts layers and a live expert population."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.core.exports import lazy_exports

if TYPE_CHECKING:
    from chronorun.model.gpt import GPT, GPTOutput
    from chronorun.model.moe import MoELayer
    from chronorun.model.population import (
        PopulationLayer,
        PopulationModel,
        insert_expert,
        read_expert,
        rebuild,
        remove_expert,
    )
    from chronorun.model.router import Router
    from chronorun.model.shapes import RouterLosses, Routing
    from chronorun.model.twins import Twin

__all__ = [
    "GPT",
    "GPTOutput",
    "MoELayer",
    "PopulationLayer",
    "PopulationModel",
    "Router",
    "RouterLosses",
    "Routing",
    "Twin",
    "insert_expert",
    "read_expert",
    "rebuild",
    "remove_expert",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "GPT": "gpt",
        "GPTOutput": "gpt",
        "MoELayer": "moe",
        "PopulationLayer": "population",
        "PopulationModel": "population",
        "Router": "router",
        "RouterLosses": "shapes",
        "Routing": "shapes",
        "Twin": "twins",
        "insert_expert": "population",
        "read_expert": "population",
        "rebuild": "population",
        "remove_expert": "population",
    },
)
