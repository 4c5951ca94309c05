"""Decisions that are not finished yet: what the population keeps of them, and saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.edit.saved import Newborn, Plane, Saved, flatten_saved, nest_saved
from chronorun.lifecycle.record.decisions import LifecycleDecision
from chronorun.lifecycle.record.ledger import Undo, Waiting, leaver


@dataclass(frozen=True)
class Birth:
    """A newborn outside the model, and the first offset of its ramp."""

    newborn: Newborn
    ramp_start: float = 0.0


@dataclass(frozen=True)
class Fading:
    """What a rollback puts back of an expert that fades out, and the receipt so far.

    ``saved`` is the expert as it was and, of a merge, its survivor.
    """

    saved: Mapping[str, Saved]
    felt: dict[str, Any] = field(default_factory=dict)


def pack_pending(one: Waiting) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    newborn = one.parts.newborn
    return {
        "decision": one.decision.to_dict(),
        "expert_id": newborn.expert_id,
        "saved": flatten_saved(newborn.saved),
        "rewarm": newborn.rewarm,
        "plane": None if newborn.plane is None else dict(vars(newborn.plane)),
        "ramp_steps": one.ramp_steps,
        "ramp_start": one.parts.ramp_start,
    }


def unpack_pending(plain: Mapping[str, Any]) -> Waiting:
    """Rebuild a waiting birth."""
    plane = None if plain["plane"] is None else Plane(**plain["plane"])
    newborn = Newborn(plain["expert_id"], nest_saved(plain["saved"]), plain["rewarm"], plane)
    d = LifecycleDecision.from_dict(plain["decision"])
    parts = Birth(newborn, plain["ramp_start"])
    return Waiting(d, d.step, plain["ramp_steps"], plane is not None, parts)


def pack_leaving(one: Waiting) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    return {
        "decision": one.decision.to_dict(),
        "expert_id": leaver(one.decision),
        "saved": {name: flatten_saved(each) for name, each in one.parts.saved.items()},
        "due_step": one.due_step,
        "felt": one.parts.felt,
    }


def unpack_leaving(plain: Mapping[str, Any]) -> Waiting:
    """Rebuild an expert that fades out."""
    saved = {name: nest_saved(flat) for name, flat in plain["saved"].items()}
    decision = LifecycleDecision.from_dict(plain["decision"])
    return Waiting(decision, plain["due_step"], parts=Fading(saved, dict(plain["felt"])))


def pack_undo(undo: Undo) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    return dict(vars(undo)) | {
        "action": str(undo.action),
        "born": list(undo.born),
        "gone": list(undo.gone),
        "saved": {name: flatten_saved(saved) for name, saved in undo.saved.items()},
    }


def unpack_undo(plain: Mapping[str, Any]) -> Undo:
    """Rebuild what undoes an edit."""
    return Undo(
        plain["seq"],
        Action(plain["action"]),
        plain["layer_id"],
        tuple(plain["born"]),
        tuple(plain["gone"]),
        {name: nest_saved(flat) for name, flat in plain["saved"].items()},
        plain["released_by"],
    )
