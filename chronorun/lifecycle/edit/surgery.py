"""The choke-point of structural change: weights, router rows, lens and optimizer moments at once.

Nothing else changes the shape of a layer that the lifecycle manages. The ledger says who lives in
which slot; ``Surgeon.apply`` makes the tensors of one layer follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from chronorun.lifecycle.edit.moments import move_moments, read_moments, write_moments
from chronorun.lifecycle.edit.saved import Edit, Plane, Saved
from chronorun.lifecycle.edit.trial import Values, write_values
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import LifecycleError
from chronorun.model.abilities import set_twins
from chronorun.model.population import (
    LOGIT_OFFSET,
    ROUTER_ROWS,
    PopulationLayer,
    check_values,
    read_expert,
    rebuild,
)
from chronorun.model.twins import Twin

ROW_STD = 0.02


class Recorder(Protocol):
    """What surgery needs of the routing recorder."""

    def set_population(self, n_experts_per_layer: Sequence[int]) -> None:
        """Start an empty window for another population."""


class Surgeon:
    """Reads and changes experts by their ids; the registry says in which slot each is."""

    def __init__(
        self,
        layers: Sequence[PopulationLayer],
        registry: Registry,
        guard: UpdateGuard,
        *,
        recorder: Recorder | None = None,
        lenses: Mapping[int, Any] | None = None,
    ) -> None:
        self.layers = list(layers)
        self.registry = registry
        self.guard = guard
        self.recorder = recorder
        self.lenses = lenses if lenses is not None else {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.planes: dict[str, Plane] = {}
        registry.resolver = self._views

    def _views(self, layer_id: int, expert_id: str) -> dict[str, Tensor] | None:
        if expert_id not in self.registry.slots(layer_id):
            return None
        slot = self.registry.slot_of(expert_id)
        return {name: t.detach()[slot] for name, t in self.layers[layer_id].slot_tensors().items()}

    def read(self, expert_id: str) -> Saved:
        """Return a copy of everything a live expert is."""
        slot, layer = self._place(expert_id)
        return Saved(read_expert(layer, slot), read_moments(layer, self.optimizer, slot))

    def check(self, layer_id: int, saved: Saved) -> None:
        """Raise ValueError unless an expert kept elsewhere fits a layer."""
        check_values(self.layers[layer_id].slot_tensors(), saved.values)
        for name, entries in saved.moments.items():
            for entry, value in entries.items():
                shape = list(saved.values[name].shape) if name in saved.values else "none of it"
                if list(value.shape) != shape:
                    raise ValueError(
                        f"{entry} of {name} has shape {list(value.shape)}, expected {shape}"
                    )

    def write(self, expert_id: str, values: Values) -> None:
        """Replace some of a live expert's values, in place."""
        slot, layer = self._place(expert_id)
        write_values(layer, slot, values)

    def twins(self, layer_id: int, slots: Sequence[str] | None = None) -> list[Twin]:
        """Return the exclusive pairs of a layer by slot; ``slots`` are its experts unless told."""
        slots = self.registry.slots(layer_id) if slots is None else list(slots)
        # Planes from a checkpoint are on the CPU.
        device = self.layers[layer_id].slot_tensors()[ROUTER_ROWS].device
        return [
            Twin(
                slots.index(parent),
                slots.index(child),
                plane.direction_D.to(device),
                plane.threshold.to(device),
            )
            for child, parent in self.registry.twins.items()
            if child in slots and parent in slots
            for plane in (self.planes[child],)
        ]

    def apply(self, edit: Edit) -> None:
        """Make the tensors of a layer those of the experts that the registry now names.

        Raises LifecycleError for an edit that does not fit them.
        """
        layer, now = self.layers[edit.layer_id], self.registry.slots(edit.layer_id)
        before = now if edit.before is None else list(edit.before)
        keep = [slot for slot, name in enumerate(before) if name in now]
        self._check(edit, [before[slot] for slot in keep], now)
        if edit.before is not None:
            self._change_shape(edit, layer, keep)
        for expert_id in set(before) - set(now):
            self.guard.forget(expert_id)
        for expert_id, saved in edit.write.items():
            slot = now.index(expert_id)
            write_values(layer, slot, saved.values)
            if self.optimizer is not None:
                write_moments(layer, self.optimizer, slot, saved.moments)
            # A re-warm belonged to the moments that are overwritten.
            self.guard.forget(expert_id)
        if edit.redraw_rows is not None:
            self._redraw(edit.layer_id, edit.redraw_rows)
        if self.optimizer is not None:
            blank = [newborn.expert_id for newborn in edit.insert if newborn.rewarm]
            for expert_id in (*blank, *edit.rewarm):
                self.guard.start_rewarm(edit.layer_id, expert_id)
        self.planes |= {one.expert_id: one.plane for one in edit.insert if one.plane is not None}
        self.planes = {c: plane for c, plane in self.planes.items() if c in self.registry.twins}
        set_twins(layer, self.twins(edit.layer_id))

    def _check(self, edit: Edit, stays: Sequence[str], now: Sequence[str]) -> None:
        wanted = [*stays, *(newborn.expert_id for newborn in edit.insert)]
        if wanted != list(now):
            raise LifecycleError(
                f"surgery: layer {edit.layer_id} would hold {', '.join(wanted)}, expected "
                f"{', '.join(now)} as the registry has it; this is a bug in the caller"
            )
        missing = [name for name in edit.write if name not in now]
        if missing:
            raise LifecycleError(
                f"surgery: expert {missing[0]} is not live in layer {edit.layer_id}, expected one "
                f"of {', '.join(now)}; this is a bug in the caller"
            )

    def _change_shape(self, edit: Edit, layer: PopulationLayer, keep: Sequence[int]) -> None:
        before = layer.slot_tensors()
        rebuild(layer, keep, [newborn.saved.values for newborn in edit.insert])
        if self.optimizer is not None:
            moments = [newborn.saved.moments for newborn in edit.insert]
            move_moments(self.optimizer, before, layer.slot_tensors(), keep, moments)
        if self.recorder is not None:
            self.recorder.set_population([x.num_experts for x in self.layers])
        lens = self.lenses.get(edit.layer_id)
        if lens is not None:
            lens.keep_slots(keep, len(edit.insert))

    def _redraw(self, layer_id: int, generator: torch.Generator) -> None:
        """Forget what the router had learned: rows from N(0, 0.02), offsets 0."""
        for expert_id in self.registry.slots(layer_id):
            row = self.read(expert_id).values[ROUTER_ROWS]
            fresh = ROW_STD * torch.randn(row.shape, generator=generator)
            self.write(expert_id, {ROUTER_ROWS: fresh, LOGIT_OFFSET: torch.zeros(())})

    def _place(self, expert_id: str) -> tuple[int, PopulationLayer]:
        return self.registry.slot_of(expert_id), self.layers[self.registry[expert_id].layer_id]
