"""Signals that follow from others: computed by the live run, and again by a replay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chronorun.config.governance import ControlConfig
from chronorun.governance.policy import compute_topology_debt
from chronorun.lifecycle.experts.records import ExpertRecord
from chronorun.telemetry.layer import LayerSnapshot

DEVIATION_ENTRIES = 8
"""Evaluations of history before a change of weights can be called unusual."""
_LEAST_SPREAD = 0.1
"""The MAD counts as at least this part of the median: a steady expert is no suspect for a blip."""


def weight_deviations(records: Sequence[ExpertRecord]) -> list[float | None]:
    """Return how far each expert's newest weight change lies from its median, in MAD.

    None before ``DEVIATION_ENTRIES`` evaluations in which it had tokens.
    """
    known = [[e.weight_delta for e in r.basin.entries if e.share > 0.0] for r in records]
    found: list[float | None] = [None] * len(records)
    # Most experts of a layer are equally old: each age is one array.
    for length in {len(deltas) for deltas in known if len(deltas) > DEVIATION_ENTRIES}:
        experts = [e for e, deltas in enumerate(known) if len(deltas) == length]
        deltas_EN = np.array([known[e] for e in experts])
        before, newest = deltas_EN[:, :-1], deltas_EN[:, -1]
        median = _medians(before)
        spread = np.maximum(_medians(np.abs(before - median[:, None])), _LEAST_SPREAD * median)
        distances, units = (newest - median).tolist(), spread.tolist()
        for e, distance, unit in zip(experts, distances, units, strict=True):
            found[e] = distance / unit if unit > 0.0 else None
    return found


def _medians(values_EN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of each row; ``np.median`` takes three times as long over a few rows."""
    n, ordered = values_EN.shape[1], np.sort(values_EN, axis=1)
    return np.asarray((ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2.0)


def token_entropy_ratio(nats: float | None, groups: int) -> float:
    """Return the router's mean entropy per token over that of an even choice among ``groups``."""
    return nats / math.log(groups) if nats is not None and groups > 1 else 0.0


def unresolved_debt(layer_id: int, shares: Sequence[float], control: ControlConfig) -> float:
    """Return the topology debt that the newest experts have no part in.

    ``shares`` are those of the layer's other experts; they are scaled to a sum of 1. Of two experts
    the top-2 share is always 1, which is no debt of theirs.
    """
    total = sum(shares)
    if not shares or total <= 0.0:
        return 0.0
    layer = LayerSnapshot.from_shares(layer_id, np.array([share / total for share in shares]))
    debt, parts = compute_topology_debt(layer, control)
    if len(shares) <= 2:
        debt -= control.debt_weight_top2 * parts["debt_top2"]
    return debt


def most_loaded(shares: Sequence[float], usable: Sequence[int]) -> int:
    """Return the usable slot with the largest share, the first of several."""
    return max(usable, key=lambda slot: (shares[slot], -slot))


def cluster_of(
    expert_ids: Sequence[str], affinity: NDArray[np.float64], source: str, size: int = 3
) -> list[str]:
    """Return ``source`` and the experts nearest to it by ``affinity`` [E, E], ``size`` in all.

    The affinity is co-selection, or at top-1, where nothing is co-selected, the cosine of router
    rows.
    """
    centre = list(expert_ids).index(source)
    order = np.argsort(-affinity[centre], kind="stable").tolist()
    others = [expert_ids[i] for i in order if i != centre]
    return [source, *others[: size - 1]]
