"""What an edit saved so that it can be judged, and undone: the experts it touched, as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.signals import ProbationReading
from chronorun.lifecycle.edit.archive import flatten_saved, nest_saved
from chronorun.lifecycle.edit.receipts import ProbeLoss
from chronorun.lifecycle.edit.surgery import Saved, Surgeon
from chronorun.lifecycle.edit.trial import Values, trial
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS


@dataclass(frozen=True)
class Bundle:
    """The experts an edit touched: ``born`` came by it, ``gone`` left by it, ``saved`` is before.

    ``saved`` holds what has to be put back: a split's parent, a merge's survivor, those gone.
    ``released_by`` is the offset that a release added to both twins of a split; None before it.
    """

    seq: int
    action: Action
    layer_id: int
    born: tuple[str, ...]
    gone: tuple[str, ...]
    saved: Mapping[str, Saved]
    released_by: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return nested plain data with tensors."""
        return {
            "seq": self.seq,
            "action": str(self.action),
            "layer_id": self.layer_id,
            "born": list(self.born),
            "gone": list(self.gone),
            "saved": {name: flatten_saved(saved) for name, saved in self.saved.items()},
            "released_by": self.released_by,
        }

    @classmethod
    def from_state_dict(cls, plain: Mapping[str, Any]) -> Bundle:
        """Rebuild a bundle."""
        return cls(
            plain["seq"],
            Action(plain["action"]),
            plain["layer_id"],
            tuple(plain["born"]),
            tuple(plain["gone"]),
            {name: nest_saved(flat) for name, flat in plain["saved"].items()},
            plain["released_by"],
        )


def loss_without(
    surgeon: Surgeon, probe: ProbeLoss, step: int, bundle: Bundle, *, restored: bool
) -> float | None:
    """Return the probe loss at today's weights with an edit undone; None where it cannot be.

    Undone: what was born is masked, what left is back. With ``restored`` the touched experts that
    stayed are what they were before the edit, too: what a rollback would give.
    """
    layer = surgeon.layers[bundle.layer_id]
    slots = surgeon.registry.slots(bundle.layer_id)
    keep = [slot for slot, name in enumerate(slots) if name not in bundle.born]
    names = [slots[slot] for slot in keep] + list(bundle.gone)
    if not _can_live(surgeon, bundle.layer_id, names):
        return None
    write: dict[int, Values] = {}
    for name, saved in bundle.saved.items():
        if name in bundle.gone or name not in names:
            continue
        if restored:
            write[names.index(name)] = saved.values
        elif bundle.action is Action.MERGE:
            # The survivor's place in the routing belongs to the edit, its weights to training.
            write[names.index(name)] = {
                key: saved.values[key] for key in (ROUTER_ROWS, LOGIT_OFFSET)
            }
        elif bundle.released_by is not None:
            write[names.index(name)] = _shared_again(surgeon, bundle, name)
    with (
        _lens_follows(surgeon.lenses.get(bundle.layer_id), keep, len(bundle.gone)),
        trial(
            layer,
            keep,
            new=[bundle.saved[name].values for name in bundle.gone],
            write=write,
            pairs=surgeon.twins(bundle.layer_id, names),
            pairs_after=surgeon.twins(bundle.layer_id),
        ),
    ):
        return probe(step)


def _shared_again(surgeon: Surgeon, bundle: Bundle, parent_id: str) -> Values:
    """Return the place in the routing that released twins would share, had they never parted.

    A release moves the two in opposite directions: their mean is the row that they shared, with
    what both have learned since.
    """
    assert bundle.released_by is not None
    parent, child = (surgeon.read(name).values for name in (parent_id, *bundle.born))
    row_D, offset = ((parent[key] + child[key]) / 2.0 for key in (ROUTER_ROWS, LOGIT_OFFSET))
    return {ROUTER_ROWS: row_D, LOGIT_OFFSET: offset - bundle.released_by}


def judge_by_probe(
    surgeon: Surgeon, probe: ProbeLoss, step: int, loss: float, bundle: Bundle, tolerance: float
) -> ProbationReading | None:
    """Ask the probe about an edit; ``loss`` is the probe's as things are."""
    undone = loss_without(surgeon, probe, step, bundle, restored=False)
    if undone is None:
        return None
    restored = None
    if loss - undone > tolerance * abs(undone):
        restored = loss_without(surgeon, probe, step, bundle, restored=True)
    return ProbationReading(bundle.seq, loss, undone, restored)


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


@contextmanager
def _lens_follows(lens: Any, keep: Sequence[int], added: int) -> Iterator[None]:
    """Let a lens steer by the shares of the experts of a trial: by others' it would not steer."""
    if not hasattr(lens, "load_state"):
        yield
        return
    saved = lens.state()
    lens.keep_slots(keep, added)
    try:
        yield
    finally:
        lens.load_state(saved)
