"""One line of ``control_decisions.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ControlDecision:
    """What the controller saw, computed and did in one layer at one evaluation."""

    run_id: str
    step: int
    layer_id: int
    observed: dict[str, Any]
    computed: dict[str, Any]
    actuator: dict[str, Any]
    emergency: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the record."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ControlDecision:
        """Read a record back, v2's or ours; unknown fields are ignored."""
        return cls(**{k: v for k, v in record.items() if k in cls.__dataclass_fields__})
