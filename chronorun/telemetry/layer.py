"""The state of one MoE layer at an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chronorun.core.jsonl import Record
from chronorun.telemetry.metrics import (
    Shares,
    compute_entropy,
    compute_gini_coefficient,
    compute_n_effective,
    compute_top2_share,
    count_dead_experts,
    count_nearly_dead_experts,
)


@dataclass
class LayerSnapshot(Record):
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
