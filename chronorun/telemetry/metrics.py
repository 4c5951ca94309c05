"""Routing metrics of one MoE layer over one window (NumPy only)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chronorun.telemetry.events import RoutingEvent

Shares = NDArray[np.float64]


def shares_from_counts(counts: NDArray[np.int64]) -> Shares:
    """Return each expert's fraction of the assignments [E]; all zeros when nothing was routed."""
    total = int(counts.sum())
    return counts / total if total else np.zeros(len(counts))


def compute_utilization_shares(events: Iterable[RoutingEvent], layer_id: int) -> Shares:
    """Return the shares of one layer over a list of events; empty when the layer is absent."""
    rows = [e.expert_token_counts for e in events if e.layer_id == layer_id]
    if not rows:
        return np.zeros(0)
    return shares_from_counts(np.asarray(rows, dtype=np.int64).sum(axis=0))


def compute_entropy(shares: Shares) -> float:
    """Return ``-sum s ln s`` in nats, between 0 and ln n."""
    positive = np.asarray(shares)[np.asarray(shares) > 0]
    return max(0.0, float(-(positive * np.log(positive)).sum()))


def compute_n_effective(entropy: float) -> float:
    """Return ``exp(entropy)``: the number of equally used experts with that entropy."""
    return float(np.exp(entropy))


def compute_top2_share(shares: Shares) -> float:
    """Return the sum of the two largest shares; 1.0 when there are fewer than two experts."""
    if len(shares) < 2:
        return 1.0
    return float(np.sort(shares)[-2:].sum())


def count_dead_experts(shares: Shares) -> int:
    """Count experts whose share is exactly 0."""
    return int((np.asarray(shares) == 0).sum())


def count_nearly_dead_experts(shares: Shares, threshold: float = 0.01) -> int:
    """Count experts with a share above 0 and below the threshold."""
    values = np.asarray(shares)
    return int(((values > 0) & (values < threshold)).sum())


def compute_gini_coefficient(shares: Shares) -> float:
    """Return the Gini coefficient: 0 when all shares are equal, towards 1 when one takes all."""
    ordered = np.sort(np.asarray(shares, dtype=np.float64))
    n, total = len(ordered), float(ordered.sum())
    if n == 0 or total == 0.0:
        return 0.0
    ranks = np.arange(1, n + 1)
    return float((2 * (ranks * ordered).sum() - (n + 1) * total) / (n * total))


def compute_layer_metrics(
    events: Iterable[RoutingEvent], layer_id: int
) -> tuple[Shares, float, float, float, int, int]:
    """Return (shares, entropy, n_effective, top2_share, dead, nearly_dead); else zeros."""
    shares = compute_utilization_shares(events, layer_id)
    if len(shares) == 0:
        return shares, 0.0, 0.0, 0.0, 0, 0
    entropy = compute_entropy(shares)
    return (
        shares,
        entropy,
        compute_n_effective(entropy),
        compute_top2_share(shares),
        count_dead_experts(shares),
        count_nearly_dead_experts(shares),
    )
