"""One line of ``lifecycle_decisions.jsonl``: what was done, why, and what the probe felt of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Verdict

SCHEMA_VERSION = 1


@dataclass
class LifecycleDecision:
    """One executed edit: the published fields first, then ours.

    ``step`` is when it was decided, ``integrated_step`` when the shapes changed (None: they have
    not). ``expert_id`` names the expert acted upon; for SPAWN and SPLIT the newborn, whose origin
    is ``parent_id``. A merge's ``expert_id`` survives and ``partner_id`` is absorbed. ``receipt``
    is what the probe measured around the edit (see ``receipts.receipt``). ``dry_run`` marks what
    would have been done.
    """

    step: int
    run_id: str
    action: str
    layer_id: int
    expert_id: str
    parent_id: str | None
    reason: str
    metrics_at_decision: dict[str, Any]
    config_snapshot: dict[str, Any]
    schema_version: int = SCHEMA_VERSION
    seq: int = 0
    integrated_step: int | None = None
    child_ids: list[str] = field(default_factory=list)
    partner_id: str | None = None
    undoes: int | None = None
    experts_before: list[str] = field(default_factory=list)
    experts_after: list[str] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the record."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LifecycleDecision:
        """Read a record back, the published ones included; unknown fields are ignored."""
        return cls(**{k: v for k, v in record.items() if k in cls.__dataclass_fields__})


def make_decision(
    verdict: Verdict, step: int, run_id: str, config: LifecycleConfig, experts: list[str]
) -> LifecycleDecision:
    """Return the record of an executed verdict, before anything has changed."""
    c = verdict.candidate
    assert verdict.seq is not None
    born = c.parent_id is not None
    return LifecycleDecision(
        step=step,
        run_id=run_id,
        action=str(c.action),
        layer_id=c.layer_id,
        expert_id=c.expert_id,
        parent_id=c.parent_id,
        reason=c.reason,
        metrics_at_decision=dict(c.metrics),
        config_snapshot={name: _plain(getattr(config, name)) for name in c.decided_by},
        seq=verdict.seq,
        child_ids=[c.expert_id] if born else [],
        partner_id=c.partner_id,
        undoes=c.undoes,
        experts_before=list(experts),
        experts_after=list(experts),
        dry_run=config.dry_run,
    )


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
