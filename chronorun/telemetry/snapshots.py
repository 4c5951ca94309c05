"""The state of all MoE layers at an evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from chronorun.core.jsonl import Record
from chronorun.telemetry.alerts import AlertHistory
from chronorun.telemetry.events import RoutingEvent
from chronorun.telemetry.layer import LayerSnapshot as LayerSnapshot
from chronorun.telemetry.metrics import compute_utilization_shares, shares_from_counts
from chronorun.telemetry.windows import WindowStats


@dataclass
class SystemSnapshot(Record):
    """All layers at one evaluation, with losses and persistent alerts."""

    step: int
    timestamp: float
    train_loss: float
    val_loss: float | None
    layers: list[LayerSnapshot]
    alerts: list[str] = field(default_factory=list)
    run_id: str = ""
    model_name: str = ""

    @classmethod
    def from_events(
        cls,
        events: Sequence[RoutingEvent],
        step: int,
        train_loss: float,
        val_loss: float | None,
        run_id: str,
        model_name: str,
        n_layers: int,
        alert_history: AlertHistory | dict[int, dict[str, int]] | None = None,
        timestamp: float | None = None,
    ) -> SystemSnapshot:
        """Summarise the events of a window; a layer without events is left out, as in v2."""
        shares = [compute_utilization_shares(events, layer_id) for layer_id in range(n_layers)]
        layers = [
            LayerSnapshot.from_shares(i, share) for i, share in enumerate(shares) if share.size
        ]
        alerts = _count_alerts(layers, alert_history)
        now = time.time() if timestamp is None else timestamp
        return cls(step, now, train_loss, val_loss, layers, alerts, run_id, model_name)

    @classmethod
    def from_window(
        cls,
        window: WindowStats,
        step: int,
        train_loss: float,
        val_loss: float | None,
        run_id: str,
        model_name: str,
        alert_history: AlertHistory | dict[int, dict[str, int]] | None = None,
        timestamp: float | None = None,
        expert_ids: Sequence[Sequence[str]] | None = None,
    ) -> SystemSnapshot:
        """Summarise a recorder's window; ``expert_ids`` name the slots of each layer."""
        layers = [
            LayerSnapshot.from_shares(
                layer.layer_id,
                shares_from_counts(layer.counts.sum(axis=0)),
                token_entropy_nats=layer.token_entropy_nats,
                overflow_fraction=layer.overflow_fraction,
                dropped_fraction=layer.dropped_fraction,
                expert_ids=list(expert_ids[layer.layer_id]) if expert_ids is not None else None,
            )
            for layer in window.layers
        ]
        alerts = _count_alerts(layers, alert_history)
        now = time.time() if timestamp is None else timestamp
        return cls(step, now, train_loss, val_loss, layers, alerts, run_id, model_name)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of ``snapshots.jsonl``."""
        return super().to_dict() | {"layers": [layer.to_dict() for layer in self.layers]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back, also one of v2; unknown fields are ignored."""
        layers = [LayerSnapshot.from_dict(layer) for layer in record["layers"]]
        return super().from_dict(dict(record) | {"layers": layers})


def _count_alerts(
    layers: list[LayerSnapshot], history: AlertHistory | dict[int, dict[str, int]] | None
) -> list[str]:
    if history is None:
        return []
    return (AlertHistory(history) if isinstance(history, dict) else history).update(layers)
