"""The state of all MoE layers at an evaluation checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chronorun.telemetry.alerts import AlertHistory
from chronorun.telemetry.events import RoutingEvent
from chronorun.telemetry.metrics import (
    Shares,
    compute_entropy,
    compute_gini_coefficient,
    compute_n_effective,
    compute_top2_share,
    compute_utilization_shares,
    count_dead_experts,
    count_nearly_dead_experts,
    shares_from_counts,
)
from chronorun.telemetry.windows import WindowStats


@dataclass
class LayerSnapshot:
    """Routing of one layer over a window: v2's fields, then ours with defaults."""

    layer_id: int
    utilization_shares: list[float]
    entropy: float
    dead_expert_count: int
    n_effective: float
    top2_share: float
    nearly_dead_count: int = 0
    active_experts: list[int] = field(default_factory=list)
    num_experts: int = 0
    gini: float = 0.0
    token_entropy_nats: float | None = None
    overflow_fraction: float | None = None
    dropped_fraction: float | None = None
    expert_ids: list[str] | None = None

    def __post_init__(self) -> None:
        # v2's records do not say it.
        self.num_experts = self.num_experts or len(self.utilization_shares)

    @classmethod
    def from_shares(cls, layer_id: int, shares: Shares, **extra: Any) -> LayerSnapshot:
        """Derive every metric from the shares [E]; ``extra`` are fields of ours."""
        entropy = compute_entropy(shares)
        return cls(
            layer_id=layer_id,
            utilization_shares=[float(share) for share in shares],
            entropy=entropy,
            dead_expert_count=count_dead_experts(shares),
            n_effective=compute_n_effective(entropy) if len(shares) else 0.0,
            top2_share=compute_top2_share(shares) if len(shares) else 0.0,
            nearly_dead_count=count_nearly_dead_experts(shares),
            active_experts=np.flatnonzero(shares > 0).tolist(),
            gini=compute_gini_coefficient(shares),
            **extra,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the layer's part of a record of ``snapshots.jsonl``."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LayerSnapshot:
        """Read a record back, v2's or ours; unknown fields are ignored."""
        return cls(**{k: v for k, v in record.items() if k in cls.__dataclass_fields__})


@dataclass
class SystemSnapshot:
    """All layers at one evaluation checkpoint, with losses and persistent alerts."""

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
        return dict(vars(self)) | {"layers": [layer.to_dict() for layer in self.layers]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> SystemSnapshot:
        """Read a record back, v2's or ours; unknown fields are ignored."""
        known = {k: v for k, v in record.items() if k in cls.__dataclass_fields__}
        known["layers"] = [LayerSnapshot.from_dict(layer) for layer in record["layers"]]
        return cls(**known)


def _count_alerts(
    layers: list[LayerSnapshot], history: AlertHistory | dict[int, dict[str, int]] | None
) -> list[str]:
    if history is None:
        return []
    return (AlertHistory(history) if isinstance(history, dict) else history).update(layers)
