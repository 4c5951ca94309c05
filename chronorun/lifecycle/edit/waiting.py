"""Decisions that are not finished yet: births that wait, and experts that fade out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.lifecycle.edit.archive import flatten_saved, nest_saved
from chronorun.lifecycle.edit.surgery import Newborn, Plane, Saved
from chronorun.lifecycle.record.decisions import LifecycleDecision


@dataclass
class Pending:
    """A birth that waits for the next training forward."""

    decision: LifecycleDecision
    newborn: Newborn
    ramp_steps: int
    ramp_start: float = 0.0


@dataclass
class Leaving:
    """An expert that still gets tokens and fades out before it is removed.

    ``saved`` is what a rollback puts back: the expert as it was and, of a merge, its survivor.
    ``felt`` is the receipt of what was done at the decision already.
    """

    decision: LifecycleDecision
    expert_id: str
    saved: dict[str, Saved]
    due_step: int
    felt: dict[str, Any] = field(default_factory=dict)


def pack_pending(one: Pending) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    newborn = one.newborn
    return {
        "decision": one.decision.to_dict(),
        "expert_id": newborn.expert_id,
        "saved": flatten_saved(newborn.saved),
        "rewarm": newborn.rewarm,
        "plane": None if newborn.plane is None else dict(vars(newborn.plane)),
        "ramp_steps": one.ramp_steps,
        "ramp_start": one.ramp_start,
    }


def unpack_pending(saved: Mapping[str, Any]) -> Pending:
    """Rebuild a waiting birth."""
    plane = None if saved["plane"] is None else Plane(**saved["plane"])
    newborn = Newborn(saved["expert_id"], nest_saved(saved["saved"]), saved["rewarm"], plane)
    decision = LifecycleDecision.from_dict(saved["decision"])
    return Pending(decision, newborn, saved["ramp_steps"], saved["ramp_start"])


def pack_leaving(one: Leaving) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    return {
        "decision": one.decision.to_dict(),
        "expert_id": one.expert_id,
        "saved": {name: flatten_saved(each) for name, each in one.saved.items()},
        "due_step": one.due_step,
        "felt": one.felt,
    }


def unpack_leaving(saved: Mapping[str, Any]) -> Leaving:
    """Rebuild an expert that fades out."""
    return Leaving(
        LifecycleDecision.from_dict(saved["decision"]),
        saved["expert_id"],
        {name: nest_saved(flat) for name, flat in saved["saved"].items()},
        saved["due_step"],
        dict(saved["felt"]),
    )
