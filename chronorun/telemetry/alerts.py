"""Alerts about collapsing routing: at once for a look, or after persistence for a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chronorun.telemetry.snapshots import LayerSnapshot

PRE_COLLAPSE_SNAPSHOTS = 3
COLLAPSE_SNAPSHOTS = 5
NEFF_RATIO = 0.6
TOP2_WARNING = 0.75
TOP2_COLLAPSE = 0.85


def looks_pre_collapse(layer: LayerSnapshot) -> bool:
    """Say whether few experts carry the load: ``n_effective < 0.6 n`` or ``top2_share > 0.75``."""
    n = len(layer.utilization_shares)
    return layer.n_effective < NEFF_RATIO * n or layer.top2_share > TOP2_WARNING


def looks_collapsed(layer: LayerSnapshot) -> bool:
    """Say whether an expert is dead while two take more than 0.85 of the load."""
    return layer.dead_expert_count >= 1 and layer.top2_share > TOP2_COLLAPSE


def _figures(layer: LayerSnapshot) -> str:
    n = len(layer.utilization_shares)
    return (
        f"Layer {layer.layer_id}: n_effective {layer.n_effective:.2f} of {n}, "
        f"top-2 share {layer.top2_share:.2f}, {layer.dead_expert_count} dead"
    )


class AlertHistory:
    """Counts consecutive snapshots with each condition, by layer."""

    def __init__(self) -> None:
        self._pre: dict[int, int] = {}
        self._collapsed: dict[int, int] = {}

    def update(self, layers: Iterable[LayerSnapshot]) -> list[str]:
        """Count one more snapshot and return the alerts that have persisted."""
        alerts = []
        for layer in layers:
            key = layer.layer_id
            self._pre[key] = self._pre.get(key, 0) + 1 if looks_pre_collapse(layer) else 0
            self._collapsed[key] = self._collapsed.get(key, 0) + 1 if looks_collapsed(layer) else 0
            if self._pre[key] >= PRE_COLLAPSE_SNAPSHOTS:
                alerts.append(f"PRE_COLLAPSE: {_figures(layer)}, for {self._pre[key]} snapshots")
            if self._collapsed[key] >= COLLAPSE_SNAPSHOTS:
                alerts.append(
                    f"COLLAPSE_CONFIRMED: {_figures(layer)}, for {self._collapsed[key]} snapshots"
                )
        return alerts

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Return the counters as plain data."""
        return {
            "pre_collapse": {str(key): count for key, count in self._pre.items()},
            "collapsed": {str(key): count for key, count in self._collapsed.items()},
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the counters."""
        self._pre = {int(key): int(n) for key, n in state["pre_collapse"].items()}
        self._collapsed = {int(key): int(n) for key, n in state["collapsed"].items()}


def check_immediate_alerts(layers: Iterable[LayerSnapshot]) -> list[str]:
    """Return the same conditions without persistence, as ``WARNING:`` and ``ALERT:`` lines."""
    lines = []
    for layer in layers:
        if looks_pre_collapse(layer):
            lines.append(f"WARNING: {_figures(layer)}")
        if looks_collapsed(layer):
            lines.append(f"ALERT: {_figures(layer)}")
    return lines
