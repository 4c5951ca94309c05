"""What is known of one expert, and of one change of its state."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chronorun.lifecycle.basins import BasinHistory
from chronorun.lifecycle.states import ExpertState

if TYPE_CHECKING:
    from chronorun.lifecycle.registry import Registry

Resolver = Callable[[int, str], Any]
"""Takes layer and expert id; returns views of the expert's parameters."""


class WeightRef:
    """Weak handle to an expert's parameters; calling it returns the views, or None once dead."""

    def __init__(self, registry: Registry, layer_id: int, expert_id: str) -> None:
        self.layer_id = layer_id
        self.expert_id = expert_id
        self._registry = weakref.ref(registry)

    def __call__(self) -> Any | None:
        """Resolve the handle against the tensors as they are now."""
        registry = self._registry()
        if registry is None or registry.resolver is None:
            return None
        record = registry.records.get(self.expert_id)
        if record is None or record.state is ExpertState.archived:
            return None
        return registry.resolver(self.layer_id, self.expert_id)

    def __repr__(self) -> str:
        return f"WeightRef({self.expert_id})"


@dataclass
class ExpertRecord:
    """One expert. ``parent_id`` is set for split children and for spawns cloned from an expert."""

    expert_id: str
    layer_id: int
    state: ExpertState
    born_step: int
    parent_id: str | None
    basin: BasinHistory
    weight_ref: WeightRef
    died_step: int | None = None
    merged_into: str | None = None
    children: list[str] = field(default_factory=list)
    checkpoints_in_state: int = 0
    rolled_back: bool = False


@dataclass(frozen=True)
class TransitionRecord:
    """One line of ``expert_transitions.jsonl``.

    ``before`` is None for a birth, or ``archived`` for a birth from an archived expert's weights.
    """

    step: int
    layer_id: int
    expert_id: str
    before: ExpertState | None
    after: ExpertState
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the record under the log's names (``from`` and ``to``)."""
        return {
            "step": self.step,
            "layer_id": self.layer_id,
            "expert_id": self.expert_id,
            "from": None if self.before is None else str(self.before),
            "to": str(self.after),
            "reason": self.reason,
        }
