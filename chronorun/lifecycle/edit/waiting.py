"""Decisions that are not finished yet: what the population keeps of them, and saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.edit.saved import Newborn, Plane, Saved, flatten_saved, nest_saved
from chronorun.lifecycle.experts.ramps import Ramp
from chronorun.lifecycle.record.decisions import LifecycleDecision
from chronorun.lifecycle.record.ledger import Ledger, Undo, Waiting, leaver


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


def ledger_state(ledger: Ledger) -> dict[str, Any]:
    """Return what waits, fades, ramps and may be undone, as nested plain data with tensors."""
    return {
        "pending": [pack_pending(one) for one in ledger.pending],
        "leaving": [pack_leaving(one) for one in ledger.leaving],
        "ramps": to_plain(ledger.ramps),
        "bundles": {str(seq): pack_undo(undo) for seq, undo in ledger.undo.items()},
    }


def restore_ledger(ledger: Ledger, state: Mapping[str, Any]) -> None:
    """Restore what ``ledger_state`` returned. Raises ValueError for values of other types."""
    ledger.pending = [unpack_pending(plain) for plain in state["pending"]]
    ledger.leaving = [unpack_leaving(plain) for plain in state["leaving"]]
    ledger.ramps = from_plain(dict[str, Ramp], state["ramps"])
    ledger.undo = {int(seq): unpack_undo(plain) for seq, plain in state["bundles"].items()}


def kept_experts(ledger: Ledger) -> Iterator[tuple[int, Saved]]:
    """Yield the layer and the tensors of each expert that is kept outside the model."""
    for birth in ledger.pending:
        yield birth.decision.layer_id, birth.parts.newborn.saved
    for leaving in ledger.leaving:
        yield from ((leaving.decision.layer_id, saved) for saved in leaving.parts.saved.values())
    for undo in ledger.undo.values():
        yield from ((undo.layer_id, saved) for saved in undo.saved.values())
