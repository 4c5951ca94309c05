"""What one window of training steps looked like, on the host."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chronorun.telemetry.events import RoutingEvent

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class LayerWindow:
    """Statistics of one layer; E live experts, one row of ``counts`` [n_steps, E] per step.

    ``assignments`` [n_steps] counts what each step asked for, ``counts`` what was dispatched of it;
    ``top_k`` is the largest of the window. ``prob_sums`` [E] adds up the router's full softmax,
    ``token_entropy_nats`` is the mean over tokens of its entropy. ``overflow_by_expert`` [E] is the
    share of a step's assignments beyond 1.25 times the even share where none can be dropped, and
    the dropped share where they can; ``overflow_fraction`` is its sum. All fractions are means over
    steps. ``token_types`` [E, types] and ``positions`` [E, buckets] count
    dispatched assignments; ``co_selection[i, j]`` counts tokens sent to both i and j, its diagonal
    is each expert's own count.
    """

    layer_id: int
    top_k: int
    counts: Counts
    assignments: Counts
    prob_sums: NDArray[np.float64]
    token_entropy_nats: float
    overflow_fraction: float
    overflow_by_expert: NDArray[np.float64]
    dropped_fraction: float
    token_types: Counts
    positions: Counts
    co_selection: Counts

    def step_top_k(self, row: int, tokens: int) -> int:
        """Return the top-k of one step, given its tokens; the window's where none was observed."""
        return int(self.assignments[row]) // tokens if self.assignments[row] else self.top_k


@dataclass(frozen=True)
class WindowStats:
    """All layers over the steps since the last snapshot.

    ``losses`` holds NaN for a step that was given none; ``tokens`` counts tokens per step.
    """

    steps: list[int]
    losses: list[float]
    tokens: list[int]
    layers: list[LayerWindow]

    def routing_events(
        self, run_id: str, mode: str = "TRAIN", timestamp: float | None = None
    ) -> list[RoutingEvent]:
        """Return one RoutingEvent per step and layer, in that order."""
        now = time.time() if timestamp is None else timestamp
        return [
            RoutingEvent(
                timestamp=now,
                run_id=run_id,
                step=step,
                mode=mode,
                layer_id=layer.layer_id,
                n_experts=layer.counts.shape[1],
                top_k=layer.step_top_k(row, self.tokens[row]),
                expert_token_counts=layer.counts[row].tolist(),
                active_experts=np.flatnonzero(layer.counts[row]).tolist(),
                loss=None if math.isnan(self.losses[row]) else self.losses[row],
            )
            for row, step in enumerate(self.steps)
            for layer in self.layers
        ]
