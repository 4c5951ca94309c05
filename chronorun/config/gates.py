"""Refuse gate orders that keep the loss from reaching the router at a top-k that the run uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chronorun.config.model import GateChoice, GateOrder
from chronorun.config.run import RunConfig
from chronorun.config.scenario import SETS_TOP_K, ScenarioKind
from chronorun.errors import UserError


def check_gates(config: RunConfig) -> None:
    """Refuse gates that are always 1: a softmax over one chosen expert. Raises UserError."""
    orders = _orders(config.router.gate_order, config.model.top_k, config.scenario.kind)
    if not is_deaf(orders):
        return
    kind = config.scenario.kind
    where = "model.top_k=1" if config.model.top_k == 1 else f"top_k=1, which scenario={kind.value}"
    sets = "" if config.model.top_k == 1 else " sets for a while"
    raise UserError(
        f"configuration: router.gate_order={config.router.gate_order.value}, expected auto or "
        f"softmax_then_topk with {where}{sets} (a softmax over one chosen expert is always 1, and "
        f"the router would learn nothing); use router.gate_order=auto"
    )


def is_deaf(orders: Mapping[int, GateOrder]) -> bool:
    """Return whether a router with these gate orders (by top-k) gets no gradient from the loss."""
    return orders.get(1) is GateOrder.topk_then_softmax


def saved_orders(saved: Mapping[str, Any]) -> dict[int, GateOrder]:
    """Return the gate order at each top-k of a saved run, from its flat configuration.

    Empty if the configuration lacks one of the fields.
    """
    try:
        return _orders(
            GateChoice(saved["router.gate_order"]),
            int(saved["model.top_k"]),
            ScenarioKind(saved["scenario.kind"]),
        )
    except (KeyError, ValueError, TypeError):
        return {}


def _orders(choice: GateChoice, top_k: int, kind: ScenarioKind) -> dict[int, GateOrder]:
    return {k: choice.order(k) for k in (top_k, *SETS_TOP_K.get(kind, ()))}
