"""The population protocol: what a layer offers so that experts can come and go, and the edits.

An edit rebuilds every per-expert tensor of one layer (``slot_tensors``) in one go. Parameters come
back as new ``nn.Parameter`` objects without a gradient: an optimizer that held the old ones must be
handed the new ones by the caller of the edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

ROUTER_ROWS = "router.weight"
LOGIT_OFFSET = "router.logit_offset"


def is_router(name: str) -> bool:
    """Return whether a slot tensor belongs to the router."""
    return name.startswith("router.")


class PopulationLayer(Protocol):
    """A layer whose experts are slots, counted along dimension 0 of some of its tensors.

    Among its ``slot_tensors`` are the router's rows, [E, D], as ``router.weight``, and what is
    added to the logits before softmax and top-k, [E], as ``router.logit_offset``; names that open
    with ``router.`` belong to the router, all others to the experts. Further attributes are used
    where a layer has them: ``observer``, ``gate_observer``, ``spy`` (see ``shapes``),
    ``set_twins`` (exclusive twins) and ``hidden_axes`` (alignment of hidden units in a merge).
    """

    @property
    def num_experts(self) -> int:
        """Live experts."""

    @property
    def top_k(self) -> int:
        """Experts each token is sent to: the least a layer can live on."""

    def slot_tensors(self) -> dict[str, Tensor]:
        """Return every tensor whose first dimension is the slot, by name."""

    def set_slot_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors of a new number of slots in the place of those of the same names."""


class PopulationModel(Protocol):
    """A model with layers that hold experts; a layer's index is its id."""

    def moe_layers(self) -> Sequence[PopulationLayer]:
        """Return the layers in order."""


def read_expert(layer: PopulationLayer, slot: int) -> dict[str, Tensor]:
    """Return a copy of everything the layer holds for one expert, by name, without the slot axis.

    Raises IndexError for a slot that is not live.
    """
    _check_slot(layer, slot)
    return {name: tensor.detach()[slot].clone() for name, tensor in layer.slot_tensors().items()}


def rebuild(
    layer: PopulationLayer, keep: Sequence[int], new: Sequence[Mapping[str, Tensor]] = ()
) -> None:
    """Keep these slots, in this order, and append experts made of ``new`` values.

    Each of ``new`` has one entry, of the shape ``read_expert`` gives, for every name of
    ``slot_tensors()``. Raises ValueError for a missing or unknown name or another shape, and when
    fewer than ``top_k`` experts would be left; IndexError for a slot that is not live.
    """
    tensors = layer.slot_tensors()
    for slot in keep:
        _check_slot(layer, slot)
    for values in new:
        check_values(tensors, values)
    if len(keep) + len(new) < layer.top_k:
        raise ValueError(
            f"rebuild: {len(keep) + len(new)} experts would be left, expected >= "
            f"top_k={layer.top_k}; insert an expert first"
        )
    layer.set_slot_tensors(
        {
            name: _like(old, rebuilt_rows(old, keep, [values[name] for values in new]))
            for name, old in tensors.items()
        }
    )


def insert_expert(layer: PopulationLayer, values: Mapping[str, Tensor]) -> int:
    """Append an expert made of ``values`` and return its slot, the last one (see ``rebuild``)."""
    rebuild(layer, range(layer.num_experts), [values])
    return layer.num_experts - 1


def remove_expert(layer: PopulationLayer, slot: int) -> dict[str, Tensor]:
    """Take one expert out and return what it was; the others keep their order and move up.

    Raises IndexError for a slot that is not live and ValueError when fewer than ``top_k`` experts
    would be left.
    """
    removed = read_expert(layer, slot)
    if layer.num_experts <= layer.top_k:
        raise ValueError(
            f"remove_expert: num_experts={layer.num_experts}, expected > top_k={layer.top_k}; "
            f"insert an expert first"
        )
    rebuild(layer, [s for s in range(layer.num_experts) if s != slot])
    return removed


def rebuilt_rows(old: Tensor, keep: Sequence[int], new: Sequence[Tensor]) -> Tensor:
    """Return a copy of these slots of a tensor, in this order, with ``new`` slots behind them.

    Slots that follow each other are copied as one piece: a bank of experts is copied once.
    """
    pieces, kept = [], list(keep)
    while kept:
        first, n = kept[0], 1
        while n < len(kept) and kept[n] == first + n:
            n += 1
        pieces.append(old.detach()[first : first + n])
        kept = kept[n:]
    return torch.cat([*pieces, *(value.detach().to(old)[None] for value in new)])


def check_values(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless ``values`` are those of one slot of a layer's ``tensors``."""
    wrong = sorted(tensors.keys() ^ values.keys())
    if wrong:
        raise ValueError(
            f"insert_expert: names {', '.join(wrong)} are not on both sides, expected values for "
            f"exactly {', '.join(sorted(tensors))}; start from read_expert"
        )
    for name, old in tensors.items():
        if values[name].shape != old.shape[1:]:
            raise ValueError(
                f"insert_expert: {name} has shape {list(values[name].shape)}, expected "
                f"{list(old.shape[1:])}; start from read_expert"
            )


def _check_slot(layer: PopulationLayer, slot: int) -> None:
    if not 0 <= slot < layer.num_experts:
        raise IndexError(
            f"population: slot={slot}, expected 0 <= slot < num_experts={layer.num_experts}; "
            f"slots move up when an expert leaves"
        )


def _like(old: Tensor, new: Tensor) -> Tensor:
    """Return ``new`` as a parameter where ``old`` is one, so that modules accept it."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new
