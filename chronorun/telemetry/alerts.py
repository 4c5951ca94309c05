"""Alerts about collapsing routing: at once for a look, or after persistence for a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chronorun.core.state import from_plain, to_plain
from chronorun.telemetry.layer import LayerSnapshot

PRE_COLLAPSE_SNAPSHOTS = 3
COLLAPSE_SNAPSHOTS = 5
NEFF_RATIO = 0.6
TOP2_WARNING = 0.75
TOP2_COLLAPSE = 0.85


def says_nothing(layer: LayerSnapshot) -> bool:
    """Return whether nothing was dispatched: such a window shows neither collapse nor health."""
    return not any(layer.utilization_shares)


def looks_pre_collapse(layer: LayerSnapshot) -> bool:
    """Return whether few experts carry the load: n_effective < 0.6 n or top2_share > 0.75."""
    n = len(layer.utilization_shares)
    return layer.n_effective < NEFF_RATIO * n or layer.top2_share > TOP2_WARNING


def looks_collapsed(layer: LayerSnapshot) -> bool:
    """Return whether an expert is dead while two take more than 0.85 of the load."""
    return layer.dead_expert_count >= 1 and layer.top2_share > TOP2_COLLAPSE


def _figures(layer: LayerSnapshot) -> str:
    n = len(layer.utilization_shares)
    return (
        f"Layer {layer.layer_id}: n_effective {layer.n_effective:.2f} of {n}, "
        f"top-2 share {layer.top2_share:.2f}, {layer.dead_expert_count} dead"
    )


class AlertHistory:
    """Counts consecutive snapshots with each condition, by layer; empty ones are passed over.

    The counters live in the dict given, in v2's shape ``{layer_id: {"pre_collapse_count",
    "collapse_count"}}``, so that a loop written for v2 may keep passing its own dict.
    """

    def __init__(self, counters: dict[int, dict[str, int]] | None = None) -> None:
        self._counters = {} if counters is None else counters

    def update(self, layers: Iterable[LayerSnapshot]) -> list[str]:
        """Count one more snapshot and return the alerts that have persisted.

        A layer to which nothing was dispatched keeps its counters and raises no alert.
        """
        alerts = []
        for layer in layers:
            if says_nothing(layer):
                continue
            counts = self._counters.setdefault(layer.layer_id, {})
            pre = _count_on(counts, "pre_collapse_count", looks_pre_collapse(layer))
            collapsed = _count_on(counts, "collapse_count", looks_collapsed(layer))
            if pre >= PRE_COLLAPSE_SNAPSHOTS:
                alerts.append(f"PRE_COLLAPSE: {_figures(layer)}, for {pre} snapshots")
            if collapsed >= COLLAPSE_SNAPSHOTS:
                alerts.append(f"COLLAPSE_CONFIRMED: {_figures(layer)}, for {collapsed} snapshots")
        return alerts

    def state_dict(self) -> dict[str, Any]:
        """Return the counters as plain data, layers as strings."""
        return to_plain(self._counters)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counters."""
        restored = from_plain(dict[int, dict[str, int]], state)
        self._counters.clear()
        self._counters.update(restored)


def _count_on(counts: dict[str, int], name: str, holds: bool) -> int:
    counts[name] = counts.get(name, 0) + 1 if holds else 0
    return counts[name]


def check_immediate_alerts(layers: Iterable[LayerSnapshot]) -> list[str]:
    """Return the same conditions without persistence, as ``WARNING:`` and ``ALERT:`` lines."""
    lines = []
    for layer in layers:
        if says_nothing(layer):
            continue
        if looks_pre_collapse(layer):
            lines.append(f"WARNING: {_figures(layer)}")
        if looks_collapsed(layer):
            lines.append(f"ALERT: {_figures(layer)}")
    return lines
