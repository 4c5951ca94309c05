"""Every expert that ever lived: identity, state, lineage, slot order and basin history.

The registry knows names, not tensors. The owner of the tensors installs a resolver, through which
an expert's ``weight_ref`` finds its parameters as long as the expert has some.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.experts.basins import BasinHistory
from chronorun.lifecycle.experts.records import ExpertRecord, TransitionRecord
from chronorun.lifecycle.experts.states import ExpertState, LifecycleError, check_transition

Resolver = Callable[[int, str], Any]
"""Takes layer and expert id; returns views of the expert's parameters."""


class WeightRef:
    """Weak handle to an expert's parameters; calling it returns the views, or None once dead."""

    def __init__(self, registry: Registry, layer_id: int, expert_id: str) -> None:
        self.layer_id = layer_id
        self.expert_id = expert_id
        self._registry = weakref.ref(registry)

    def __call__(self) -> Any | None:
        """Resolve the handle against the tensors as they are now."""
        registry = self._registry()
        if registry is None or registry.resolver is None:
            return None
        record = registry.records.get(self.expert_id)
        if record is None or record.state is ExpertState.archived:
            return None
        return registry.resolver(self.layer_id, self.expert_id)

    def __repr__(self) -> str:
        return f"WeightRef({self.expert_id})"


class Registry:
    """All experts of all MoE layers, dead ones included; ids are never used twice.

    ``slots(layer)`` names the layer's live experts in the order of its tensors. ``twins`` maps the
    child of an exclusive pair to its parent: until released, the two count as one group.
    """

    def __init__(self, n_experts_per_layer: Sequence[int], basin_window_size: int = 50) -> None:
        self.basin_window_size = basin_window_size
        self.records: dict[str, ExpertRecord] = {}
        self.twins: dict[str, str] = {}
        self.resolver: Resolver | None = None
        self._slots: dict[int, list[str]] = {}
        self._born: dict[int, list[str]] = {}
        self._transitions: list[TransitionRecord] = []
        for layer_id, n_experts in enumerate(n_experts_per_layer):
            self._slots[layer_id] = []
            self._born[layer_id] = []
            for _ in range(n_experts):
                record = self._create(layer_id, ExpertState.active, 0, None)
                self._slots[layer_id].append(record.expert_id)
                self._log(record, None, 0, "initial")

    def layers(self) -> list[int]:
        """Return the layer ids in order."""
        return sorted(self._slots)

    def slots(self, layer_id: int) -> list[str]:
        """Return the ids of a layer's live experts in slot order."""
        return list(self._slots[layer_id])

    def slot_of(self, expert_id: str) -> int:
        """Return the slot of a live expert. Raises LifecycleError for any other."""
        record = self[expert_id]
        slots = self._slots[record.layer_id]
        if expert_id not in slots:
            raise LifecycleError(
                f"expert {expert_id}: state={record.state}, expected a live one; "
                f"only live experts have slots"
            )
        return slots.index(expert_id)

    def is_live(self, expert_id: str) -> bool:
        """Return whether an expert is known and has a slot."""
        record = self.records.get(expert_id)
        return record is not None and expert_id in self._slots[record.layer_id]

    def live(self, layer_id: int) -> list[ExpertRecord]:
        """Return the records of a layer's live experts in slot order."""
        return [self.records[expert_id] for expert_id in self._slots[layer_id]]

    def pending(self, layer_id: int) -> list[ExpertRecord]:
        """Return the experts that wait for their integration."""
        return [r for r in self._of(layer_id) if r.state is ExpertState.pending_spawn]

    def archived(self, layer_id: int) -> list[ExpertRecord]:
        """Return the layer's archived experts, oldest first."""
        return [r for r in self._of(layer_id) if r.state is ExpertState.archived]

    def groups(self, layer_id: int) -> list[tuple[str, ...]]:
        """Return what competes for top-k slots: experts, and exclusive twins as (parent, child)."""
        child_of = {parent: child for child, parent in self.twins.items()}
        return [
            (expert_id, child_of[expert_id]) if expert_id in child_of else (expert_id,)
            for expert_id in self._slots[layer_id]
            if expert_id not in self.twins
        ]

    def next_id(self, layer_id: int) -> str:
        """Return the id that the layer's next new expert will have."""
        return f"L{layer_id}_E{len(self._born[layer_id])}"

    def add(self, layer_id: int, step: int, parent_id: str | None, reason: str) -> ExpertRecord:
        """Register a new expert in ``pending_spawn``; it has no slot yet."""
        parent = None if parent_id is None else self[parent_id]
        record = self._create(layer_id, ExpertState.pending_spawn, step, parent_id)
        origin = None
        if parent is not None:
            parent.children.append(record.expert_id)
            if parent.state is ExpertState.archived:
                origin = ExpertState.archived
        self._log(record, origin, step, reason)
        return record

    def integrate(self, expert_id: str, step: int, slot: int | None = None) -> None:
        """Give a pending expert its slot (default: the last); it starts cooling."""
        self._require(expert_id, ExpertState.pending_spawn)
        self.transition(expert_id, ExpertState.cooling, step, "integrated")
        self._insert(expert_id, slot)

    def remove(self, expert_id: str, step: int, merged_into: str | None = None) -> int | None:
        """Archive an expert in ``pending_prune``; returns the slot it had (None: it had none)."""
        record = self[expert_id]
        self.transition(
            expert_id,
            ExpertState.archived,
            step,
            "removed" if merged_into is None else f"merged into {merged_into}",
        )
        record.died_step, record.merged_into = step, merged_into
        record.basin.thin_out()
        self.release(expert_id)
        slots = self._slots[record.layer_id]
        if expert_id not in slots:
            return None
        slot = slots.index(expert_id)
        del slots[slot]
        return slot

    def restore(self, expert_id: str, step: int, reason: str, slot: int | None = None) -> None:
        """Bring an archived expert back under its own id, into a slot (default: the last)."""
        self._require(expert_id, ExpertState.archived)
        self.transition(expert_id, ExpertState.active, step, reason)
        record = self[expert_id]
        record.died_step = record.merged_into = None
        self._insert(expert_id, slot)

    def pair(self, parent_id: str, child_id: str) -> None:
        """Make two experts exclusive twins. Raises LifecycleError if either is one already."""
        taken = {*self.twins, *self.twins.values()}
        for expert_id in (parent_id, child_id):
            if expert_id in taken:
                raise LifecycleError(
                    f"expert {expert_id}: twin=True, expected no pairing yet; release it first"
                )
        self.twins[child_id] = parent_id

    def release(self, expert_id: str) -> None:
        """End the pairing that an expert is part of, if any."""
        for child_id, parent_id in list(self.twins.items()):
            if expert_id in (child_id, parent_id):
                del self.twins[child_id]

    def transition(self, expert_id: str, after: ExpertState, step: int, reason: str) -> None:
        """Move an expert to another state and log it. Raises LifecycleError if not allowed.

        Slots stay: a move that gives or takes one is ``integrate``, ``remove`` or ``restore``.
        """
        record = self[expert_id]
        before = record.state
        check_transition(expert_id, before, after)
        record.state = after
        record.checkpoints_in_state = 0
        self._log(record, before, step, reason)

    def take_transitions(self) -> list[TransitionRecord]:
        """Return the transitions since the last call, for the log."""
        taken, self._transitions = self._transitions, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Return plain JSON data; loading it is exact."""
        records = [vars(record) for record in self.records.values()]
        return to_plain(
            {
                "basin_window_size": self.basin_window_size,
                "records": [{k: v for k, v in r.items() if k != "weight_ref"} for r in records],
                "slots": self._slots,
                "twins": self.twins,
                "transitions": self._transitions,
            }
        )

    def load_state_dict(self, plain: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned; the resolver stays."""
        self.basin_window_size = from_plain(int, plain["basin_window_size"])
        self.twins = from_plain(dict[str, str], plain["twins"])
        self._slots = from_plain(dict[int, list[str]], plain["slots"])
        self._born = {layer: [] for layer in self._slots}
        self.records = {}
        for record in from_plain(list[ExpertRecord], plain["records"]):
            record.weight_ref = WeightRef(self, record.layer_id, record.expert_id)
            self.records[record.expert_id] = record
            self._born[record.layer_id].append(record.expert_id)
        self._transitions = from_plain(list[TransitionRecord], plain["transitions"])

    def __getitem__(self, expert_id: str) -> ExpertRecord:
        try:
            return self.records[expert_id]
        except KeyError:
            raise LifecycleError(
                f"registry: expert_id={expert_id}, expected one that was registered; "
                f"ids look like L0_E3"
            ) from None

    def _of(self, layer_id: int) -> Iterator[ExpertRecord]:
        return (self.records[expert_id] for expert_id in self._born[layer_id])

    def _create(
        self, layer_id: int, state: ExpertState, step: int, parent_id: str | None
    ) -> ExpertRecord:
        expert_id = self.next_id(layer_id)
        self._born[layer_id].append(expert_id)
        record = ExpertRecord(
            expert_id=expert_id,
            layer_id=layer_id,
            state=state,
            born_step=step,
            parent_id=parent_id,
            basin=BasinHistory(self.basin_window_size),
            weight_ref=WeightRef(self, layer_id, expert_id),
        )
        self.records[expert_id] = record
        return record

    def _insert(self, expert_id: str, slot: int | None) -> None:
        slots = self._slots[self[expert_id].layer_id]
        slots.insert(len(slots) if slot is None else slot, expert_id)

    def _require(self, expert_id: str, state: ExpertState) -> None:
        got = self[expert_id].state
        if got is not state:
            raise LifecycleError(
                f"expert {expert_id}: state={got}, expected {state}; this is a bug in the caller"
            )

    def _log(self, record: ExpertRecord, before: ExpertState | None, step: int, why: str) -> None:
        self._transitions.append(
            TransitionRecord(step, record.layer_id, record.expert_id, before, record.state, why)
        )
