"""The choke-point of structural change: weights, router rows, lens, optimizer moments and ids.

Nothing else changes the shape of a layer that the lifecycle manages. An ``Edit`` says what is to
leave, come and change in one layer; ``Surgeon.apply`` carries all of it out at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from chronorun.lifecycle.edit.moments import Moments, move_moments, read_moments, write_moments
from chronorun.lifecycle.edit.trial import Values, set_twins, write_values
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState, LifecycleError
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


@dataclass(frozen=True)
class Plane:
    """Which twin gets a token: the child where ``x . direction > threshold``."""

    direction_D: Tensor
    threshold: Tensor


@dataclass(frozen=True)
class Saved:
    """All that one expert is: its slot of every tensor, and its optimizer moments."""

    values: dict[str, Tensor]
    moments: Moments = field(default_factory=dict)


@dataclass(frozen=True)
class Newborn:
    """An expert to insert; with a plane it starts as the exclusive twin of its parent."""

    expert_id: str
    saved: Saved
    rewarm: bool = False
    plane: Plane | None = None


@dataclass(frozen=True)
class Edit:
    """One structural change of one layer.

    ``remove`` maps expert ids to what they were merged into (None: to nothing). ``write`` replaces
    what experts that stay are, and ``rewarm`` names those of them whose moments that left blank;
    ``unpair`` ends exclusive pairings, by child. ``redraw_rows`` draws all router rows anew.
    """

    layer_id: int
    step: int
    reason: str
    remove: Mapping[str, str | None] = field(default_factory=dict)
    insert: Sequence[Newborn] = ()
    write: Mapping[str, Saved] = field(default_factory=dict)
    rewarm: Sequence[str] = ()
    unpair: Sequence[str] = ()
    redraw_rows: torch.Generator | None = None


class Recorder(Protocol):
    """What surgery needs of the routing recorder."""

    def set_population(self, n_experts_per_layer: Sequence[int]) -> None:
        """Start an empty window for another population."""


class Surgeon:
    """Carries out edits, and knows which slot an expert is in."""

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
        """Carry out an edit. Raises LifecycleError for experts that the registry does not allow."""
        layer, registry = self.layers[edit.layer_id], self.registry
        slots = registry.slots(edit.layer_id)
        self._check(edit, slots)
        for expert_id, saved in edit.write.items():
            slot = slots.index(expert_id)
            write_values(layer, slot, saved.values)
            if self.optimizer is not None:
                write_moments(layer, self.optimizer, slot, saved.moments)
            # A re-warm belonged to the moments that are overwritten.
            self.guard.forget(expert_id)
        if edit.remove or edit.insert:
            self._change_shape(edit, layer, slots)
        if edit.redraw_rows is not None:
            self._redraw(edit.layer_id, edit.redraw_rows)
        if self.optimizer is not None:
            for expert_id in edit.rewarm:
                self.guard.start_rewarm(edit.layer_id, expert_id)
        for child in edit.unpair:
            registry.release(child)
        self.planes = {c: plane for c, plane in self.planes.items() if c in registry.twins}
        set_twins(layer, self.twins(edit.layer_id))

    def _check(self, edit: Edit, slots: Sequence[str]) -> None:
        known = set(slots)
        missing = [i for i in (*edit.remove, *edit.write) if i not in known]
        if missing:
            raise LifecycleError(
                f"surgery: expert {missing[0]} is not live in layer {edit.layer_id}, expected one "
                f"of {', '.join(slots)}; this is a bug in the caller"
            )

    def _change_shape(self, edit: Edit, layer: PopulationLayer, slots: list[str]) -> None:
        registry = self.registry
        keep = [slot for slot, name in enumerate(slots) if name not in edit.remove]
        before = layer.slot_tensors()
        rebuild(layer, keep, [newborn.saved.values for newborn in edit.insert])
        if self.optimizer is not None:
            moments = [newborn.saved.moments for newborn in edit.insert]
            move_moments(self.optimizer, before, layer.slot_tensors(), keep, moments)
        for expert_id, merged_into in edit.remove.items():
            if registry[expert_id].state is not ExpertState.pending_prune:
                registry.transition(expert_id, ExpertState.pending_prune, edit.step, edit.reason)
            registry.remove(expert_id, edit.step, merged_into)
            self.guard.forget(expert_id)
        for newborn in edit.insert:
            self._enter(newborn, edit)
        if self.recorder is not None:
            self.recorder.set_population([x.num_experts for x in self.layers])
        lens = self.lenses.get(edit.layer_id)
        if lens is not None:
            lens.keep_slots(keep, len(edit.insert))

    def _enter(self, newborn: Newborn, edit: Edit) -> None:
        registry, expert_id = self.registry, newborn.expert_id
        if registry[expert_id].state is ExpertState.archived:
            registry.restore(expert_id, edit.step, edit.reason)
        else:
            registry.integrate(expert_id, edit.step)
        if newborn.plane is not None:
            parent = registry[expert_id].parent_id
            assert parent is not None
            registry.pair(parent, expert_id)
            self.planes[expert_id] = newborn.plane
        if newborn.rewarm and self.optimizer is not None:
            self.guard.start_rewarm(edit.layer_id, expert_id)

    def _redraw(self, layer_id: int, generator: torch.Generator) -> None:
        """Forget what the router had learned: rows from N(0, 0.02), offsets 0."""
        for expert_id in self.registry.slots(layer_id):
            row = self.read(expert_id).values[ROUTER_ROWS]
            fresh = ROW_STD * torch.randn(row.shape, generator=generator)
            self.write(expert_id, {ROUTER_ROWS: fresh, LOGIT_OFFSET: torch.zeros(())})

    def _place(self, expert_id: str) -> tuple[int, PopulationLayer]:
        return self.registry.slot_of(expert_id), self.layers[self.registry[expert_id].layer_id]
