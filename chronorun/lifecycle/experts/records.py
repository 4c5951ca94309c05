"""Records of one expert and of one change of its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chronorun.lifecycle.experts.basins import BasinHistory
from chronorun.lifecycle.experts.states import ExpertState


@dataclass
class ExpertRecord:
    """One expert. ``parent_id`` is set for split children and for spawns cloned from an expert.

    ``weight_ref()`` returns views of its parameters, None once it has none (``WeightRef``).
    """

    expert_id: str
    layer_id: int
    state: ExpertState
    born_step: int
    parent_id: str | None
    basin: BasinHistory
    died_step: int | None = None
    merged_into: str | None = None
    children: list[str] = field(default_factory=list)
    checkpoints_in_state: int = 0
    rolled_back: bool = False
    weight_ref: Callable[[], Any | None] = lambda: None


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
