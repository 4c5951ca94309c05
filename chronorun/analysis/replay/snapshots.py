"""A snapshot held against itself and against what the controller said it saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chronorun.analysis.replay.lines import Differs, Line, at, compare, near
from chronorun.telemetry.snapshots import LayerSnapshot, SystemSnapshot

OBSERVED = ("entropy", "n_effective", "top2_share", "dead_expert_count")
COUNTED = ("dead_expert_count", "nearly_dead_count", "active_experts", "num_experts")
MEASURED = ("entropy", "n_effective", "top2_share", "gini")


def check_layers(line: Line, snapshot: SystemSnapshot, n_layers: int) -> None:
    """Raise Differs unless a snapshot tells of each layer, in order."""
    compare(line, "layers (how many)", len(snapshot.layers), n_layers)
    for place, layer in enumerate(snapshot.layers):
        compare(line, f"layers[{place}].layer_id", layer.layer_id, place)


def check_observed(line: Line, snapshot: SystemSnapshot, control: Sequence[Line]) -> None:
    """Raise Differs where a snapshot's figures are not those of its shares, or not those seen."""
    for place, layer in enumerate(snapshot.layers):
        shares = np.asarray(layer.utilization_shares, dtype=np.float64)
        own = LayerSnapshot.from_shares(layer.layer_id, shares)
        if control:
            _check_seen(line, place, layer, own, control[place])
        check_metrics(line, place, layer, own)


def _check_seen(
    line: Line, place: int, layer: LayerSnapshot, own: LayerSnapshot, control: Line
) -> None:
    """Of snapshot and control decision the one is wrong that the shares do not bear out."""
    seen = control.record.get("observed")
    seen = seen if isinstance(seen, dict) else {}
    for name in OBSERVED:
        told, value = seen.get(name), getattr(layer, name)
        if told == value:
            continue
        if value == getattr(own, name):
            raise Differs(at(control, f"observed.{name}", told, value))
        raise Differs(at(line, f"layers[{place}].{name}", value, told))


def check_metrics(line: Line, place: int, layer: LayerSnapshot, own: LayerSnapshot) -> None:
    """Raise Differs where a layer's figures are not those of its shares."""
    where = f"layers[{place}]"
    total = sum(layer.utilization_shares)
    near(line, f"{where}.utilization_shares (their sum)", total, float(total > 0.0), 1e-9)
    for name in COUNTED:
        compare(line, f"{where}.{name}", getattr(layer, name), getattr(own, name))
    for name in MEASURED:
        # Logarithms may differ in the last digit between machines.
        near(line, f"{where}.{name}", getattr(layer, name), getattr(own, name), 1e-9)
