"""Try an edit on one layer and take it back: for every 'what if' that the probe answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from chronorun.model.abilities import set_twins
from chronorun.model.population import PopulationLayer, rebuild
from chronorun.model.twins import Twin

Values = Mapping[str, Tensor]


@contextmanager
def trial(
    layer: PopulationLayer,
    keep: Sequence[int],
    *,
    new: Sequence[Values] = (),
    write: Mapping[int, Values] | None = None,
    pairs: Sequence[Twin] = (),
    pairs_after: Sequence[Twin] = (),
) -> Iterator[None]:
    """Give a layer other experts for a while; afterwards it holds the very same tensors again.

    ``keep`` and ``new`` are those of ``rebuild``; ``write`` replaces values by the slots that
    result from it. ``pairs`` are the exclusive twins of the trial, ``pairs_after`` those to put
    back.
    """
    original = layer.slot_tensors()
    try:
        rebuild(layer, keep, new)
        for slot, values in (write or {}).items():
            write_values(layer, slot, values)
        set_twins(layer, pairs)
        yield
    finally:
        layer.set_slot_tensors(original)
        set_twins(layer, pairs_after)


@torch.no_grad()
def write_values(layer: PopulationLayer, slot: int, values: Values) -> None:
    """Copy values into one slot, in place."""
    tensors = layer.slot_tensors()
    for name, value in values.items():
        tensors[name].data[slot].copy_(value)
