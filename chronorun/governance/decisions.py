"""One line of ``control_decisions.jsonl``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chronorun.core.jsonl import Record


@dataclass
class ControlDecision(Record):
    """What the controller saw, computed and did in one layer at one evaluation."""

    run_id: str
    step: int
    layer_id: int
    observed: dict[str, Any]
    computed: dict[str, Any]
    actuator: dict[str, Any]
    emergency: dict[str, Any]
    notes: list[str] = field(default_factory=list)
