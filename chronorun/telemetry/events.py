"""One step of one MoE layer, as v2 records it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from chronorun.core.jsonl import Record


@dataclass
class RoutingEvent(Record):
    """Assignments of one step in one layer. ``timestamp`` is the only wall-clock field."""

    timestamp: float
    run_id: str
    step: int
    mode: str
    layer_id: int
    n_experts: int
    top_k: int
    expert_token_counts: list[int]
    active_experts: list[int] = field(default_factory=list)
    router_prob_sums: list[float] | None = None
    loss: float | None = None
    aux_loss: float | None = None

    @property
    def token_count(self) -> int:
        """Assignments dispatched in this step (not batch times time)."""
        return sum(self.expert_token_counts)

    @classmethod
    def from_router_output(
        cls,
        run_id: str,
        step: int,
        mode: str,
        layer_id: int,
        used_capacity: Any,
        n_experts: int,
        top_k: int,
        timestamp: float | None = None,
    ) -> RoutingEvent:
        """Build an event from a count per expert (a tensor, an array or a list, shape [E])."""
        values = used_capacity.tolist() if hasattr(used_capacity, "tolist") else used_capacity
        counts = [int(count) for count in values]
        return cls(
            timestamp=time.time() if timestamp is None else timestamp,
            run_id=run_id,
            step=step,
            mode=mode,
            layer_id=layer_id,
            n_experts=n_experts,
            top_k=top_k,
            expert_token_counts=counts,
            active_experts=[index for index, count in enumerate(counts) if count > 0],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record of ``routing_events.jsonl``, ``token_count`` included."""
        return super().to_dict() | {"token_count": self.token_count}
