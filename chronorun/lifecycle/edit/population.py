"""A living population: the ledger's moves, made with the tensors of one model.

Births are decided at an evaluation and integrated at the start of the next training forward, so
that a population never changes between a snapshot and its consequences. All else is done at the
evaluation itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chronorun.config.lifecycle import ChildMoments, LifecycleConfig, ParentMoments, RouterChange
from chronorun.core.processes import digest_plain, digest_tensors
from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.decide.actions import Action, Candidate
from chronorun.lifecycle.edit import births
from chronorun.lifecycle.edit.archive import Archive, Archived
from chronorun.lifecycle.edit.departures import (
    chosen_together,
    unchosen_offset,
    with_weights_of,
)
from chronorun.lifecycle.edit.moments import child_moments, optimizer_bytes, slot_state
from chronorun.lifecycle.edit.newborns import Newborns
from chronorun.lifecycle.edit.receipts import ProbeLoss, Reading, receipt, take_reading
from chronorun.lifecycle.edit.releases import Releases
from chronorun.lifecycle.edit.saved import Edit, Newborn, Plane, Saved
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.waiting import (
    Birth,
    Fading,
    kept_experts,
    ledger_state,
    restore_ledger,
)
from chronorun.lifecycle.experts.ramps import Ramp
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.lifecycle.record.decisions import LifecycleDecision
from chronorun.lifecycle.record.ledger import BIRTHS, Ledger, Waiting, leaver
from chronorun.model.abilities import hidden_axes
from chronorun.model.population import LOGIT_OFFSET
from chronorun.model.shapes import Routing

Move = Callable[[], LifecycleDecision | None]
"""A move of the ledger; returns the finished decision."""


class Population:
    """Carries out decisions on the layers of one model; ``probe``, if given, measures them."""

    def __init__(
        self,
        ledger: Ledger,
        surgeon: Surgeon,
        tap: InputTap,
        archive: Archive,
        config: LifecycleConfig,
        *,
        seed: int = 0,
        probe: ProbeLoss | None = None,
    ) -> None:
        self.ledger = ledger
        self.surgeon = surgeon
        self.tap = tap
        self.archive = archive
        self.config = config
        self.seed = seed
        self.probe = probe
        self.seconds: dict[int, dict[str, float]] = {}
        self.newborns = Newborns(surgeon, tap, archive, config, seed)
        self.releases = Releases(surgeon, tap, config, self._reading)

    @property
    def registry(self) -> Registry:
        """All experts."""
        return self.ledger.registry

    # ---- between evaluations ----------------------------------------------------------------

    def begin_step(self, step: int) -> list[LifecycleDecision]:
        """Let faded experts out and newborns in before the forward of a training step.

        Returns the decisions that are finished with it.
        """
        return [
            self._enter(one, step) if one.is_birth else self._depart(one, step)
            for one in self.ledger.take_due(step)
        ]

    def _enter(self, one: Waiting, step: int) -> LifecycleDecision:
        d, birth, parent_id = one.decision, one.parts, one.decision.parent_id
        newborn: Newborn = birth.newborn
        base = float(newborn.saved.values[LOGIT_OFFSET])
        if one.ramp_steps:
            values = dict(newborn.saved.values)
            values[LOGIT_OFFSET] = torch.full_like(values[LOGIT_OFFSET], base + birth.ramp_start)
            newborn = replace(newborn, saved=Saved(values, newborn.saved.moments))
        saved: dict[str, Saved] = {}
        write: dict[str, Saved] = {}
        if d.action == Action.SPLIT and parent_id is not None:
            saved[parent_id] = self.surgeon.read(parent_id)
            if self.config.parent_moments is ParentMoments.zero:
                blank = child_moments(saved[parent_id].moments, births.BLANK[0])
                write[parent_id] = Saved(saved[parent_id].values, blank)
        return self._change(
            d,
            lambda: self.ledger.finish(one, step, base=base, start=birth.ramp_start, saved=saved),
            [name for name in (parent_id, newborn.expert_id) if name is not None],
            insert=[newborn],
            write=write,
            rewarm=list(write),
            redraw_rows=self._redraw(step, newborn.expert_id),
        )

    def _depart(self, one: Waiting, step: int) -> LifecycleDecision:
        fading: Fading = one.parts
        done = self._change(
            one.decision,
            lambda: self.ledger.finish(one, step, saved=fading.saved),
            list(fading.saved),
            redraw_rows=self._redraw(step, leaver(one.decision)),
        )
        return replace(done, receipt=done.receipt | fading.felt)

    def set_ramps(self, step: int) -> None:
        """Set the logit offsets of experts that are still settling in, or fading out."""
        for expert_id, ramp in self.ledger.ramps.items():
            layer = self.surgeon.layers[self.registry[expert_id].layer_id]
            slot = self.registry.slot_of(expert_id)
            layer.slot_tensors()[LOGIT_OFFSET].data[slot] = ramp.offset(step)
        self.ledger.end_ramps(step)

    # ---- at an evaluation -------------------------------------------------------------------

    def carry_out(
        self, c: Candidate, decision: LifecycleDecision, ramp_steps: int = 0, starved_T: Any = None
    ) -> LifecycleDecision:
        """Do what was decided; the decision returned is not integrated where it has to wait.

        Experts ramp in and fade out over ``ramp_steps`` (0: at once). ``starved_T`` masks the
        tokens of the newest step that a newborn is to serve.
        """
        if c.action in BIRTHS:
            return self._stage(c, decision, ramp_steps, starved_T)
        if c.action is Action.PRUNE:
            return self._prune(c, decision, ramp_steps)
        if c.action is Action.MERGE:
            return self._merge(c, decision, ramp_steps)
        return self._roll_back(c, decision)

    def _stage(
        self, c: Candidate, decision: LifecycleDecision, ramp_steps: int, starved_T: Any
    ) -> LifecycleDecision:
        """Make a newborn; it waits outside the model."""
        newborn = self.newborns.make(c, decision.step, starved_T)
        is_pair, start = newborn.plane is not None, 0.0
        if not is_pair and self.config.spawn_ramp_offset != 0.0:
            start = self.newborns.quiet_start(c.layer_id, newborn.saved)
        parts = Birth(newborn, start)
        self.ledger.stage(c, decision, is_pair=is_pair, ramp_steps=ramp_steps, parts=parts)
        return decision

    def _prune(
        self, c: Candidate, decision: LifecycleDecision, ramp_steps: int
    ) -> LifecycleDecision:
        """Remove a dead expert; it goes to the archive.

        One that no training token chose in the window may still be chosen by tokens of the probe:
        it fades out first.
        """
        expert_id, step = c.expert_id, decision.step
        saved = {expert_id: self._archive(expert_id, step)}
        before = self._reading(c.layer_id, step)
        if before is not None and before.shares().get(expert_id, 0.0) and self._fades(ramp_steps):
            slot = self.registry.slot_of(expert_id)
            ramp = self._fading(saved[expert_id], slot, step, ramp_steps, before.routing)
            self.ledger.leave(c, decision, ramp=ramp, parts=Fading(saved))
            return decision
        return self._change(
            decision,
            lambda: self.ledger.leave(c, decision, saved=saved),
            [expert_id],
            before=before,
            redraw_rows=self._redraw(step, expert_id),
        )

    def _merge(
        self, c: Candidate, decision: LifecycleDecision, ramp_steps: int
    ) -> LifecycleDecision:
        """Average two experts into the older one.

        Where tokens choose both, removing one at once frees a place that their next choices take,
        which is felt however alike the two are. Then both get the averaged weights, and the
        absorbed one fades out.
        """
        assert c.partner_id is not None
        pair, step = (c.expert_id, c.partner_id), decision.step
        survivor, absorbed = self.surgeon.read(pair[0]), self._archive(pair[1], step)
        saved = dict(zip(pair, (survivor, absorbed), strict=True))
        share, partner_share = (c.metrics[key] for key in ("share", "partner_share"))
        assert isinstance(share, float)
        assert isinstance(partner_share, float)
        axes = hidden_axes(self.surgeon.layers[c.layer_id])
        made = births.merged(survivor, absorbed, (share, partner_share), axes, self.config)
        before = self._reading(c.layer_id, step)
        routing = None if before is None else before.routing
        if routing is None:
            routing = self.tap.routing.get(c.layer_id)
        slots = self.registry.slot_of(pair[0]), self.registry.slot_of(pair[1])
        if self._fades(ramp_steps) and chosen_together(routing, slots):
            felt = self._average(c.layer_id, step, saved, made, before)
            ramp = self._fading(absorbed, slots[1], step, ramp_steps, routing)
            self.ledger.leave(c, decision, ramp=ramp, parts=Fading(saved, felt))
            return decision
        offset = births.merged_offset(made.values, routing, slots, self.config.merge_logit_offset)
        made.values[LOGIT_OFFSET] = torch.full_like(made.values[LOGIT_OFFSET], offset)
        return self._change(
            decision,
            lambda: self.ledger.leave(c, decision, saved=saved),
            pair,
            before=before,
            write={c.expert_id: made},
            redraw_rows=self._redraw(step, c.expert_id),
        )

    def _average(
        self,
        layer_id: int,
        step: int,
        saved: Mapping[str, Saved],
        made: Saved,
        before: Reading | None,
    ) -> dict[str, Any]:
        """Give both experts of a merge the averaged weights; each keeps its place in the router."""
        write = {name: with_weights_of(old, made) for name, old in saved.items()}
        self.surgeon.apply(Edit(layer_id, write=write))
        after = self._reading(layer_id, step)
        if before is None or after is None:
            return {}
        return {"averaged": receipt(before, after, list(saved))}

    def _fades(self, ramp_steps: int) -> bool:
        return ramp_steps > 0 and self.config.spawn_ramp_offset < 0.0

    def _fading(
        self, saved: Saved, slot: int, step: int, ramp_steps: int, routing: Routing | None
    ) -> Ramp:
        base, depth = float(saved.values[LOGIT_OFFSET]), self.config.spawn_ramp_offset
        if routing is not None:
            depth = min(depth, unchosen_offset(routing, slot))
        return Ramp(step, ramp_steps, base + depth, -depth)

    def _roll_back(self, c: Candidate, decision: LifecycleDecision) -> LifecycleDecision:
        """Undo an edit: the experts it touched are again what they were, bit for bit."""
        assert c.undoes is not None
        undo = self.ledger.undo[c.undoes]
        for expert_id in undo.born:
            self._archive(expert_id, decision.step)
        return self._change(
            decision,
            lambda: self.ledger.roll_back(c, decision),
            list(dict.fromkeys((*undo.born, *undo.saved))),
            insert=[Newborn(i, undo.saved[i]) for i in undo.gone],
            write={i: saved for i, saved in undo.saved.items() if i not in undo.gone},
        )

    def treat(self, layer_id: int, expert_id: str) -> None:
        """Give an expert the optimizer state of a newborn, and leave all else as it is."""
        old, how = self.surgeon.read(expert_id), self.config.child_moments
        treated = Saved(old.values, child_moments(old.moments, how))
        rewarm = [expert_id] if how is ChildMoments.zero else []
        self.surgeon.apply(Edit(layer_id, write={expert_id: treated}, rewarm=rewarm))

    def release_twins(
        self, step: int, ages: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Let the twins compete that may (see ``Releases.due``); returns a record for each.

        ``ages`` are those of the children, in evaluations, where they are not the registry's.
        """
        if ages is None:
            ages = {name: self.registry[name].checkpoints_in_state for name in self.registry.twins}
        records = []
        for child, record, offset in self.releases.due(step, ages):
            self.ledger.note_release(child, offset)
            records.append(record)
        return records

    # ---- shared -----------------------------------------------------------------------------

    def _change(
        self,
        decision: LifecycleDecision,
        move: Move,
        concerned: Sequence[str],
        *,
        before: Reading | None = None,
        **what: Any,
    ) -> LifecycleDecision:
        """Make one move of the ledger with tensors (``what`` of an ``Edit``), and measure it."""
        layer_id, started = decision.layer_id, time.perf_counter()
        if before is None:
            before = self._reading(layer_id, decision.step)
        sizes = self._bytes(layer_id)
        probed = time.perf_counter()
        done = move()
        assert done is not None
        edit = Edit(layer_id, done.experts_before, **what)
        self.surgeon.apply(edit)
        edited = time.perf_counter()
        self.tap.resize(layer_id, self.surgeon.layers[layer_id].num_experts)
        for newborn in edit.insert:
            self.archive.drop(newborn.expert_id)
        after = self._reading(layer_id, decision.step)
        felt: dict[str, Any] = {}
        if before is not None and after is not None:
            felt = receipt(before, after, concerned)
        felt |= {name: [sizes[name], size] for name, size in self._bytes(layer_id).items()}
        self.seconds[decision.seq] = {
            "edit_seconds": edited - probed,
            "probe_seconds": probed - started + time.perf_counter() - edited,
        }
        return replace(done, receipt=felt)

    def _redraw(self, step: int, expert_id: str) -> torch.Generator | None:
        if self.config.router_change is RouterChange.patch:
            return None
        return births.seeded(self.seed, step, f"rows of {expert_id}")

    def _archive(self, expert_id: str, step: int) -> Saved:
        saved = self.surgeon.read(expert_id)
        centroid = self.tap.centroid(self.registry[expert_id].layer_id)
        self.archive.put(expert_id, step, Archived(saved, centroid))
        return saved

    def _reading(self, layer_id: int, step: int) -> Reading | None:
        if self.probe is None:
            return None
        layer, slots = self.surgeon.layers[layer_id], self.registry.slots(layer_id)
        return take_reading(self.probe, step, layer, slots)

    def _bytes(self, layer_id: int) -> dict[str, int]:
        tensors = self.surgeon.layers[layer_id].slot_tensors().values()
        return {
            "layer_bytes": sum(t.numel() * t.element_size() for t in tensors),
            "optimizer_bytes": optimizer_bytes(self.surgeon.optimizer),
        }

    # ---- state ------------------------------------------------------------------------------

    def digest(self) -> str:
        """Return a digest of all experts: slots, weights, moments, and what waits to be done."""
        ledger = self.ledger
        plain: list[Any] = [
            [(one.decision.seq, one.parts.ramp_start) for one in ledger.pending],
            [(one.decision.seq, one.due_step) for one in ledger.leaving],
        ]
        tensors: dict[str, Tensor] = {}
        for layer_id, layer in enumerate(self.surgeon.layers):
            plain.append(self.registry.slots(layer_id))
            for name, tensor in layer.slot_tensors().items():
                key = f"{layer_id}.{name}"
                tensors[key] = tensor
                for entry, value in slot_state(self.surgeon.optimizer, tensor).items():
                    tensors[f"{key}.{entry}"] = value
        return digest_plain([plain, digest_tensors(tensors)])

    def state_dict(self) -> dict[str, Any]:
        """Return nested plain data with tensors; the registry's is apart."""
        return ledger_state(self.ledger) | {
            "planes": to_plain(self.surgeon.planes),
            "archive": self.archive.state_dict(),
            "guard": self.surgeon.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; registry and model must already be those of the state.

        Raises ValueError for an expert that does not fit its layer.
        """
        restore_ledger(self.ledger, state)
        self.surgeon.planes = from_plain(dict[str, Plane], state["planes"])
        self.archive.load_state_dict(state["archive"])
        self.surgeon.guard.load_state_dict(state["guard"])
        for layer_id, saved in kept_experts(self.ledger):
            self.surgeon.check(layer_id, saved)
        for layer_id in self.registry.layers():
            self.surgeon.apply(Edit(layer_id))
