"""Edits judged by the probe: its loss with an edit undone, and with one expert left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.signals import ProbationReading
from chronorun.lifecycle.edit.receipts import ProbeLoss
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.trial import Values, trial
from chronorun.lifecycle.record.ledger import Undo
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS


def loss_without(
    surgeon: Surgeon, probe: ProbeLoss, step: int, undo: Undo, *, restored: bool
) -> float | None:
    """Return the probe loss at today's weights with an edit undone; None where it cannot be.

    Undone: what was born is masked, what left is back. With ``restored`` the touched experts that
    stayed are what they were before the edit, too: what a rollback would give.
    """
    layer = surgeon.layers[undo.layer_id]
    slots = surgeon.registry.slots(undo.layer_id)
    keep = [slot for slot, name in enumerate(slots) if name not in undo.born]
    names = [slots[slot] for slot in keep] + list(undo.gone)
    if not _can_live(surgeon, undo.layer_id, names):
        return None
    write: dict[int, Values] = {}
    for name, saved in undo.saved.items():
        if name in undo.gone or name not in names:
            continue
        if restored:
            write[names.index(name)] = saved.values
        elif undo.action is Action.MERGE:
            # The survivor's place in the routing belongs to the edit, its weights to training.
            write[names.index(name)] = {
                key: saved.values[key] for key in (ROUTER_ROWS, LOGIT_OFFSET)
            }
        elif undo.released_by is not None:
            write[names.index(name)] = _shared_again(surgeon, undo, name)
    with (
        _lens_follows(surgeon.lenses.get(undo.layer_id), keep, len(undo.gone)),
        trial(
            layer,
            keep,
            new=[undo.saved[name].values for name in undo.gone],
            write=write,
            pairs=surgeon.twins(undo.layer_id, names),
            pairs_after=surgeon.twins(undo.layer_id),
        ),
    ):
        return probe(step)


def _shared_again(surgeon: Surgeon, undo: Undo, parent_id: str) -> Values:
    """Return the place in the routing that released twins would share, had they never parted.

    A release moves the two in opposite directions: their mean is the row that they shared, with
    what both have learned since.
    """
    assert undo.released_by is not None
    parent, child = (surgeon.read(name).values for name in (parent_id, *undo.born))
    row_D, offset = ((parent[key] + child[key]) / 2.0 for key in (ROUTER_ROWS, LOGIT_OFFSET))
    return {ROUTER_ROWS: row_D, LOGIT_OFFSET: offset - undo.released_by}


def judge_by_probe(
    surgeon: Surgeon, probe: ProbeLoss, step: int, loss: float, undo: Undo, tolerance: float
) -> ProbationReading | None:
    """Ask the probe about an edit; ``loss`` is the probe's as things are."""
    undone = loss_without(surgeon, probe, step, undo, restored=False)
    if undone is None:
        return None
    restored = None
    if loss - undone > tolerance * abs(undone):
        restored = loss_without(surgeon, probe, step, undo, restored=True)
    return ProbationReading(undo.seq, loss, undone, restored)


def leave_one_out(
    surgeon: Surgeon, probe: ProbeLoss, step: int, layer_id: int, slot: int
) -> float | None:
    """Return the probe loss without one expert; None where too few would be left."""
    layer, slots = surgeon.layers[layer_id], surgeon.registry.slots(layer_id)
    keep: Sequence[int] = [other for other in range(len(slots)) if other != slot]
    names = [slots[other] for other in keep]
    if not _can_live(surgeon, layer_id, names):
        return None
    with (
        _lens_follows(surgeon.lenses.get(layer_id), keep, 0),
        trial(
            layer,
            keep,
            pairs=surgeon.twins(layer_id, names),
            pairs_after=surgeon.twins(layer_id),
        ),
    ):
        return probe(step)


def _can_live(surgeon: Surgeon, layer_id: int, names: Sequence[str]) -> bool:
    """Say whether a layer of these experts has enough to choose from, twins counted once."""
    groups = len(names) - len(surgeon.twins(layer_id, names))
    return groups >= surgeon.layers[layer_id].top_k


@runtime_checkable
class Lens(Protocol):
    """A lens that steers by shares, and can be put back as it was."""

    def keep_slots(self, keep: Sequence[int], added: int) -> None:
        """Follow a change of the population."""

    def state(self) -> Any:
        """Return all that a restart needs."""

    def load_state(self, state: Any) -> None:
        """Restore what ``state`` returned."""


@contextmanager
def _lens_follows(lens: Any, keep: Sequence[int], added: int) -> Iterator[None]:
    """Let a lens steer by the shares of the experts of a trial: by others' it would not steer."""
    if not isinstance(lens, Lens):
        yield
        return
    saved = lens.state()
    lens.keep_slots(keep, added)
    try:
        yield
    finally:
        lens.load_state(saved)
