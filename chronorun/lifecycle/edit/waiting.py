"""Decisions that are not finished yet: what the population keeps of them, and saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from chronorun.core.state import from_plain, to_plain
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


@dataclass(frozen=True)
class _Pending:
    decision: LifecycleDecision
    expert_id: str
    saved: dict[str, Tensor]
    rewarm: bool
    plane: Plane | None
    ramp_steps: int
    ramp_start: float


@dataclass(frozen=True)
class _Leaving:
    decision: LifecycleDecision
    expert_id: str
    saved: dict[str, dict[str, Tensor]]
    due_step: int
    felt: dict[str, Any]


def pack_pending(one: Waiting) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    new: Newborn = one.parts.newborn
    flat, start = flatten_saved(new.saved), one.parts.ramp_start
    plain = _Pending(
        one.decision, new.expert_id, flat, new.rewarm, new.plane, one.ramp_steps, start
    )
    return dict(to_plain(plain))


def unpack_pending(plain: Any) -> Waiting:
    """Rebuild a waiting birth. Raises ValueError for values of other types."""
    p = from_plain(_Pending, plain)
    newborn = Newborn(p.expert_id, nest_saved(p.saved), p.rewarm, p.plane)
    parts = Birth(newborn, p.ramp_start)
    return Waiting(p.decision, p.decision.step, p.ramp_steps, p.plane is not None, parts)


def pack_leaving(one: Waiting) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    saved = {name: flatten_saved(each) for name, each in one.parts.saved.items()}
    plain = _Leaving(one.decision, leaver(one.decision), saved, one.due_step, one.parts.felt)
    return dict(to_plain(plain))


def unpack_leaving(plain: Any) -> Waiting:
    """Rebuild an expert that fades out. Raises ValueError for values of other types."""
    p = from_plain(_Leaving, plain)
    saved = {name: nest_saved(flat) for name, flat in p.saved.items()}
    return Waiting(p.decision, p.due_step, parts=Fading(saved, p.felt))


def pack_undo(undo: Undo) -> dict[str, Any]:
    """Return nested plain data with tensors."""
    saved = {name: flatten_saved(each) for name, each in undo.saved.items()}
    return dict(to_plain(replace(undo, saved=saved)))


def unpack_undo(plain: Any) -> Undo:
    """Rebuild what undoes an edit. Raises ValueError for values of other types."""
    undo = from_plain(Undo, plain)
    flat = from_plain(dict[str, dict[str, Tensor]], undo.saved)
    return replace(undo, saved={name: nest_saved(each) for name, each in flat.items()})
