"""A living population: carries out what was decided, keeps what must be remembered of it.

Births are decided at a checkpoint and integrated at the start of the next training forward, so that
nobody sees a population change between a snapshot and its consequences. Everything else is done at
the checkpoint itself.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chronorun.config.lifecycle import (
    ChildMoments,
    LifecycleConfig,
    ParentMoments,
    RouterChange,
    SplitRelease,
)
from chronorun.core.processes import digest_plain, digest_tensors
from chronorun.core.state import from_plain, to_plain
from chronorun.errors import StorageError
from chronorun.lifecycle.decide.actions import Action, Candidate
from chronorun.lifecycle.edit import births
from chronorun.lifecycle.edit.archive import Archive, Archived
from chronorun.lifecycle.edit.moments import child_moments, optimizer_bytes, slot_state
from chronorun.lifecycle.edit.offset_match import match_offset
from chronorun.lifecycle.edit.receipts import ProbeLoss, Reading, receipt, take_reading
from chronorun.lifecycle.edit.releases import Releases
from chronorun.lifecycle.edit.surgery import Edit, Newborn, Plane, Saved, Surgeon
from chronorun.lifecycle.edit.undo import Bundle
from chronorun.lifecycle.edit.waiting import (
    Leaving,
    Pending,
    pack_leaving,
    pack_pending,
    unpack_leaving,
    unpack_pending,
)
from chronorun.lifecycle.experts.ramps import Ramp
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.lifecycle.observe.two_mode import two_modes
from chronorun.lifecycle.record.decisions import LifecycleDecision
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS, is_router
from chronorun.model.shapes import Routing

DRIFTED_BELOW = 0.9
"""Cosine of a layer's mean inputs below which an archived router row points elsewhere."""


class Population:
    """Executes edits on the layers of one model. ``probe`` measures them where there is one."""

    def __init__(
        self,
        surgeon: Surgeon,
        tap: InputTap,
        archive: Archive,
        config: LifecycleConfig,
        *,
        seed: int = 0,
        probe: ProbeLoss | None = None,
    ) -> None:
        self.surgeon = surgeon
        self.tap = tap
        self.archive = archive
        self.config = config
        self.seed = seed
        self.probe = probe
        self.pending: list[Pending] = []
        self.leaving: list[Leaving] = []
        self.ramps: dict[str, Ramp] = {}
        self.bundles: dict[int, Bundle] = {}
        self.seconds: dict[int, dict[str, float]] = {}
        self.releases = Releases(surgeon, tap, config, self._reading)

    @property
    def registry(self) -> Registry:
        """All experts."""
        return self.surgeon.registry

    def hidden_axes(self, layer_id: int) -> Mapping[str, int]:
        """Return the axes of the hidden units in a layer's expert weights, if it tells."""
        tell = getattr(self.surgeon.layers[layer_id], "hidden_axes", None)
        return tell() if tell is not None else {}

    # ---- births -----------------------------------------------------------------------------

    def stage(
        self, c: Candidate, decision: LifecycleDecision, ramp_steps: int, starved_T: Any
    ) -> None:
        """Make the newborn of a decision; it waits outside the model."""
        newborn = self._newborn(c, decision.step, starved_T)
        if c.action is not Action.REVIVE:
            self.registry.add(c.layer_id, decision.step, c.parent_id, c.reason)
        if newborn.plane is not None or self.config.spawn_ramp_offset == 0.0:
            self.pending.append(Pending(decision, newborn, 0))
            return
        start = self._quiet_start(c.layer_id, newborn.saved)
        self.pending.append(Pending(decision, newborn, ramp_steps, start))

    def _quiet_start(self, layer_id: int, saved: Saved) -> float:
        """Return the first offset of a ramp: low enough that no token of the newest step notices.

        A row drawn for starved tokens can beat the layer's own by more than ``spawn_ramp_offset``.
        Found at the decision: a run resumed before the integration no longer has that step.
        """
        start, routing = self.config.spawn_ramp_offset, self.tap.routing.get(layer_id)
        if routing is None:
            return start
        row_D = saved.values[ROUTER_ROWS].to(routing.x_TD)
        own_T = routing.x_TD @ row_D + saved.values[LOGIT_OFFSET].to(routing.x_TD)
        top_k = routing.expert_index_KT.shape[0]
        return min(start, match_offset(own_T, routing.logits_TE, top_k, 0.0))

    def _newborn(self, c: Candidate, step: int, starved_T: Any) -> Newborn:
        generator = births.seeded(self.seed, step, c.expert_id)
        if c.action is Action.SPLIT:
            assert c.parent_id is not None
            parent = self.surgeon.read(c.parent_id)
            saved, rewarm = births.clone_of(parent, self.config, generator)
            plane = self._plane(c.layer_id, c.parent_id)
            if plane is not None and not self._exclusive(c.layer_id):
                # With its parent's very row a child would get all tokens or none.
                delta = self.config.split_router_delta
                rows = births.released(parent.values, plane.direction_D, plane.threshold, delta)
                saved.values.update(rows[1])
                plane = None
            return Newborn(c.expert_id, saved, rewarm, plane)
        layer_ids = self.registry.slots(c.layer_id)
        # Views: a copy of every expert would cost more than the edit.
        tensors = self.surgeon.layers[c.layer_id].slot_tensors()
        population = [
            {name: tensor.detach()[slot] for name, tensor in tensors.items()}
            for slot in range(len(layer_ids))
        ]
        tokens = self.tap.tokens(c.layer_id, starved_T)
        if c.action is Action.REVIVE:
            archived = self._from_archive(c.layer_id, c.expert_id)
            saved, rewarm = births.revived(
                archived.saved, population, tokens, self._drifted(c.layer_id, archived), self.config
            )
            return Newborn(c.expert_id, saved, rewarm)
        cluster = [self.surgeon.read(name) for name in c.cluster or layer_ids[:1]]
        axes = self.hidden_axes(c.layer_id)
        saved, rewarm = births.spawned(cluster, population, tokens, axes, self.config, generator)
        return Newborn(c.expert_id, saved, rewarm)

    def _exclusive(self, layer_id: int) -> bool:
        """Say whether a pair of twins shares one logit at first."""
        able = hasattr(self.surgeon.layers[layer_id], "set_twins")
        return able and self.config.split_release is not SplitRelease.at_once

    def _plane(self, layer_id: int, parent_id: str) -> Plane | None:
        """Return the plane that parts a parent's tokens; None where no tokens are known at all.

        One that had many tokens in the window may have none in the newest step: then the plane
        parts the layer's.
        """
        inputs = self.tap.inputs(layer_id, [self.registry.slot_of(parent_id)])
        if inputs is not None and not len(inputs):
            inputs = self.tap.inputs(layer_id, range(self.tap.n_experts[layer_id]))
        if inputs is None or not len(inputs):
            return None
        modes = two_modes(inputs)
        return Plane(modes.direction_D, modes.threshold)

    def _drifted(self, layer_id: int, archived: Archived) -> bool:
        now, then = self.tap.centroid(layer_id), archived.centroid_D
        if now is None or then is None:
            return False
        cosine = torch.nn.functional.cosine_similarity(now, then.to(now), dim=0)
        return float(cosine) < DRIFTED_BELOW

    def is_due(self, step: int) -> bool:
        """Say whether anyone enters or leaves before the forward of a step."""
        return bool(self.pending) or any(step >= one.due_step for one in self.leaving)

    def integrate(self, step: int) -> list[LifecycleDecision]:
        """Let the router see what waits; returns the finished decisions."""
        waiting, self.pending = self.pending, []
        return [self._integrate(one, step) for one in waiting]

    def _integrate(self, one: Pending, step: int) -> LifecycleDecision:
        decision, newborn = one.decision, one.newborn
        action, parent_id = Action(decision.action), decision.parent_id
        if one.ramp_steps:
            base = float(newborn.saved.values[LOGIT_OFFSET])
            ramp = Ramp(step, one.ramp_steps, base, one.ramp_start)
            self.ramps[newborn.expert_id] = ramp
            values = dict(newborn.saved.values)
            values[LOGIT_OFFSET] = torch.full_like(values[LOGIT_OFFSET], ramp.offset(step))
            newborn = replace(newborn, saved=Saved(values, newborn.saved.moments))
        saved: dict[str, Saved] = {}
        write: dict[str, Saved] = {}
        if action is Action.SPLIT and parent_id is not None:
            saved[parent_id] = self.surgeon.read(parent_id)
            if self.config.parent_moments is ParentMoments.zero:
                blank = child_moments(saved[parent_id].moments, births.BLANK[0])
                write[parent_id] = Saved(saved[parent_id].values, blank)
        edit = Edit(
            decision.layer_id,
            step,
            "revived" if action is Action.REVIVE else "integrated",
            insert=[newborn],
            write=write,
            rewarm=list(write),
            redraw_rows=self._redraw(step, newborn.expert_id),
        )
        bundle = Bundle(decision.seq, action, decision.layer_id, (newborn.expert_id,), (), saved)
        concerned = [name for name in (parent_id, newborn.expert_id) if name is not None]
        return self._perform(edit, decision, step, concerned, bundle)

    def set_ramps(self, step: int) -> None:
        """Set the logit offsets of experts that are still settling in, or fading out."""
        for expert_id, ramp in list(self.ramps.items()):
            self._set_offset(expert_id, ramp.offset(step))
            if ramp.is_over(step):
                del self.ramps[expert_id]

    def _set_offset(self, expert_id: str, offset: float) -> None:
        layer = self.surgeon.layers[self.registry[expert_id].layer_id]
        layer.slot_tensors()[LOGIT_OFFSET].data[self.registry.slot_of(expert_id)] = offset

    # ---- what is done at the checkpoint itself ----------------------------------------------

    def prune(
        self, c: Candidate, decision: LifecycleDecision, ramp_steps: int = 0
    ) -> LifecycleDecision:
        """Remove a dead expert; it goes to the archive.

        One that no training token chose in the window may still be chosen by tokens of the probe.
        It fades out over ``ramp_steps`` first; the decision returned is not integrated yet.
        """
        expert_id, step = c.expert_id, decision.step
        saved = self._archive(expert_id, step)
        self.registry.transition(expert_id, ExpertState.pending_prune, step, "confirmed dead")
        before = self._reading(c.layer_id, step)
        leaving = Leaving(decision, expert_id, {expert_id: saved}, step)
        chosen = before is not None and before.shares().get(expert_id, 0.0) > 0.0
        if not chosen or not self._fades(ramp_steps):
            return self._remove(leaving, step, before)
        self._fade(leaving, ramp_steps, None if before is None else before.routing)
        return decision

    def _fades(self, ramp_steps: int) -> bool:
        return ramp_steps > 0 and self.config.spawn_ramp_offset < 0.0

    def _fade(self, leaving: Leaving, ramp_steps: int, routing: Routing | None) -> None:
        """Lower an expert's logit offset until no token of ``routing`` would choose it."""
        expert_id, step = leaving.expert_id, leaving.decision.step
        depth, slot = self.config.spawn_ramp_offset, self.registry.slot_of(expert_id)
        if routing is not None:
            logits_TE = routing.logits_TE
            others = [e for e in range(logits_TE.shape[1]) if e != slot]
            top_k = routing.expert_index_KT.shape[0]
            needed = match_offset(logits_TE[:, slot], logits_TE[:, others], top_k, 0.0)
            depth = min(depth, needed)
        base = float(leaving.saved[expert_id].values[LOGIT_OFFSET])
        self.ramps[expert_id] = Ramp(step, ramp_steps, base + depth, -depth)
        leaving.due_step = step + ramp_steps
        self.leaving.append(leaving)

    def remove_faded(self, step: int) -> list[LifecycleDecision]:
        """Remove the experts that have faded out; returns the finished decisions."""
        due = [one for one in self.leaving if step >= one.due_step]
        self.leaving = [one for one in self.leaving if step < one.due_step]
        return [self._remove(one, step, None) for one in due]

    def _remove(self, one: Leaving, step: int, before: Reading | None) -> LifecycleDecision:
        decision, layer_id, expert_id = one.decision, one.decision.layer_id, one.expert_id
        action = Action(decision.action)
        merged_into = decision.expert_id if action is Action.MERGE else None
        edit = Edit(
            layer_id,
            step,
            decision.reason,
            remove={expert_id: merged_into},
            redraw_rows=self._redraw(step, expert_id),
        )
        bundle = Bundle(decision.seq, action, layer_id, (), (expert_id,), one.saved)
        if merged_into is not None:
            self._join_basins(merged_into, expert_id)
        done = self._perform(edit, decision, step, list(one.saved), bundle, before)
        return replace(done, receipt=done.receipt | one.felt)

    def _join_basins(self, survivor_id: str, absorbed_id: str) -> None:
        record, gone = self.registry[survivor_id], self.registry[absorbed_id]
        record.basin = record.basin.merged_with(gone.basin)

    def merge(
        self, c: Candidate, decision: LifecycleDecision, ramp_steps: int = 0
    ) -> LifecycleDecision:
        """Average two experts into the older one.

        Where tokens choose both, removing one at once frees a place that their next choices take,
        which is felt however alike the two are. Then both get the averaged weights, and the
        absorbed one fades out over ``ramp_steps``; the decision returned is not integrated yet.
        """
        assert c.partner_id is not None
        survivor, absorbed = (
            self.surgeon.read(c.expert_id),
            self._archive(c.partner_id, decision.step),
        )
        share, partner_share = (c.metrics[key] for key in ("share", "partner_share"))
        assert isinstance(share, float)
        assert isinstance(partner_share, float)
        made = births.merged(
            survivor, absorbed, (share, partner_share), self.hidden_axes(c.layer_id), self.config
        )
        before = self._reading(c.layer_id, decision.step)
        routing = None if before is None else before.routing
        if routing is None:
            routing = self.tap.routing.get(c.layer_id)
        slots = self.registry.slot_of(c.expert_id), self.registry.slot_of(c.partner_id)
        if self._fades(ramp_steps) and _chosen_together(routing, slots):
            saved = {c.expert_id: survivor, c.partner_id: absorbed}
            leaving = Leaving(decision, c.partner_id, saved, decision.step)
            self._average(c, leaving, made, before)
            self._fade(leaving, ramp_steps, routing)
            return decision
        offset = births.merged_offset(made.values, routing, slots, self.config.merge_logit_offset)
        made.values[LOGIT_OFFSET] = torch.full_like(made.values[LOGIT_OFFSET], offset)
        edit = self._edit(
            c,
            decision.step,
            remove={c.partner_id: c.expert_id},
            write={c.expert_id: made},
        )
        bundle = Bundle(
            decision.seq,
            c.action,
            c.layer_id,
            (),
            (c.partner_id,),
            {c.expert_id: survivor, c.partner_id: absorbed},
        )
        concerned = [c.expert_id, c.partner_id]
        self._join_basins(c.expert_id, c.partner_id)
        done = self._perform(edit, decision, decision.step, concerned, bundle, before)
        self.registry.transition(
            c.expert_id, ExpertState.cooling, decision.step, f"absorbed {c.partner_id}"
        )
        return done

    def _average(self, c: Candidate, leaving: Leaving, made: Saved, before: Reading | None) -> None:
        """Give both experts of a merge the averaged weights; each keeps its place in the router."""
        step = leaving.decision.step
        write = {
            name: Saved(
                old.values | {n: v for n, v in made.values.items() if not is_router(n)},
                old.moments | {n: m for n, m in made.moments.items() if not is_router(n)},
            )
            for name, old in leaving.saved.items()
        }
        self.surgeon.apply(Edit(c.layer_id, step, c.reason, write=write))
        after = self._reading(c.layer_id, step)
        if before is not None and after is not None:
            leaving.felt["averaged"] = receipt(before, after, list(leaving.saved))
        assert c.partner_id is not None
        self.registry.transition(c.partner_id, ExpertState.pending_prune, step, c.reason)
        self.registry.transition(c.expert_id, ExpertState.cooling, step, f"absorbs {c.partner_id}")

    def roll_back(self, c: Candidate, decision: LifecycleDecision) -> LifecycleDecision:
        """Undo an edit: the experts it touched are again what they were, bit for bit."""
        assert c.undoes is not None
        bundle = self.bundles.pop(c.undoes)
        for expert_id in bundle.born:
            self._archive(expert_id, decision.step)
            self.registry[expert_id].rolled_back = True
            self.registry.transition(
                expert_id, ExpertState.pending_prune, decision.step, "rolled back"
            )
        stays = {i: s for i, s in bundle.saved.items() if i not in bundle.gone}
        edit = Edit(
            c.layer_id,
            decision.step,
            f"rollback of {bundle.action} {bundle.seq}",
            remove=dict.fromkeys(bundle.born),
            insert=[Newborn(i, bundle.saved[i]) for i in bundle.gone],
            write=stays,
        )
        concerned = list(dict.fromkeys((*bundle.born, *bundle.saved)))
        return self._perform(edit, decision, decision.step, concerned, None)

    def treat(self, layer_id: int, expert_id: str, step: int) -> None:
        """Give an expert the optimizer state of a newborn, and leave all else as it is."""
        old, how = self.surgeon.read(expert_id), self.config.child_moments
        treated = Saved(old.values, child_moments(old.moments, how))
        rewarm = [expert_id] if how is ChildMoments.zero else []
        self.surgeon.apply(Edit(layer_id, step, "sham", write={expert_id: treated}, rewarm=rewarm))

    def keep_bundles(self, seqs: Collection[int]) -> None:
        """Drop what edits saved, but for those that are still to be judged."""
        self.bundles = {seq: bundle for seq, bundle in self.bundles.items() if seq in seqs}

    # ---- twins ------------------------------------------------------------------------------

    def balance_twins(self) -> None:
        """Let each exclusive pair share its newest tokens evenly."""
        self.releases.balance()

    def release_due(self, step: int, checkpoint_of: Mapping[str, int]) -> list[dict[str, Any]]:
        """Let the twins compete that may (see ``Releases.due``); returns a record for each."""
        records = []
        for child, record, common in self.releases.due(step, checkpoint_of):
            for seq, bundle in self.bundles.items():
                if bundle.born == (child,):
                    self.bundles[seq] = replace(bundle, released_by=common)
            records.append(record)
        return records

    # ---- shared -----------------------------------------------------------------------------

    def _edit(self, c: Candidate, step: int, **what: Any) -> Edit:
        return Edit(c.layer_id, step, c.reason, redraw_rows=self._redraw(step, c.expert_id), **what)

    def _redraw(self, step: int, expert_id: str) -> torch.Generator | None:
        if self.config.router_change is RouterChange.patch:
            return None
        return births.seeded(self.seed, step, f"rows of {expert_id}")

    def _archive(self, expert_id: str, step: int) -> Saved:
        saved = self.surgeon.read(expert_id)
        centroid = self.tap.centroid(self.registry[expert_id].layer_id)
        self.archive.put(expert_id, step, Archived(saved, centroid))
        return saved

    def _from_archive(self, layer_id: int, expert_id: str) -> Archived:
        archived = self.archive.get(expert_id)
        try:
            self.surgeon.check(layer_id, archived.saved)
        except ValueError as error:
            raise StorageError(
                f"archive: {expert_id} does not fit layer {layer_id} ({error}); "
                f"resume from another checkpoint"
            ) from error
        return archived

    def _reading(self, layer_id: int, step: int) -> Reading | None:
        if self.probe is None:
            return None
        layer, slots = self.surgeon.layers[layer_id], self.registry.slots(layer_id)
        return take_reading(self.probe, step, layer, slots)

    def _perform(
        self,
        edit: Edit,
        decision: LifecycleDecision,
        step: int,
        concerned: Sequence[str],
        bundle: Bundle | None,
        before: Reading | None = None,
    ) -> LifecycleDecision:
        layer_id, started = edit.layer_id, time.perf_counter()
        if before is None:
            before = self._reading(layer_id, decision.step)
        experts, sizes = self.registry.slots(layer_id), self._bytes(layer_id)
        probed = time.perf_counter()
        self.surgeon.apply(edit)
        edited = time.perf_counter()
        self.tap.resize(layer_id, self.surgeon.layers[layer_id].num_experts)
        for expert_id in edit.remove:
            self.ramps.pop(expert_id, None)
        for newborn in edit.insert:
            self.archive.drop(newborn.expert_id)
        if bundle is not None:
            self.bundles[bundle.seq] = bundle
        after = self._reading(layer_id, decision.step)
        felt: dict[str, Any] = {}
        if before is not None and after is not None:
            felt = receipt(before, after, concerned)
        felt |= {name: [sizes[name], size] for name, size in self._bytes(layer_id).items()}
        self.seconds[decision.seq] = {
            "edit_seconds": edited - probed,
            "probe_seconds": probed - started + time.perf_counter() - edited,
        }
        return replace(
            decision,
            integrated_step=step,
            experts_before=experts,
            experts_after=self.registry.slots(layer_id),
            receipt=felt,
        )

    def digest(self) -> str:
        """Return a digest of all experts: slots, weights, moments, and what waits to be done."""
        plain: list[Any] = [
            [(one.decision.seq, one.newborn.expert_id, one.ramp_start) for one in self.pending],
            [(one.decision.seq, one.expert_id, one.due_step) for one in self.leaving],
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

    def _bytes(self, layer_id: int) -> dict[str, int]:
        tensors = self.surgeon.layers[layer_id].slot_tensors().values()
        return {
            "layer_bytes": sum(t.numel() * t.element_size() for t in tensors),
            "optimizer_bytes": optimizer_bytes(self.surgeon.optimizer),
        }

    # ---- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return nested plain data with tensors; the registry's is apart."""
        return {
            "pending": [pack_pending(one) for one in self.pending],
            "leaving": [pack_leaving(one) for one in self.leaving],
            "ramps": to_plain(self.ramps),
            "planes": {name: dict(vars(p)) for name, p in self.surgeon.planes.items()},
            "bundles": {str(seq): bundle.state_dict() for seq, bundle in self.bundles.items()},
            "archive": self.archive.state_dict(),
            "guard": self.surgeon.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; registry and model must already be those of the state.

        Raises ValueError for an expert that does not fit its layer.
        """
        self.pending = [unpack_pending(saved) for saved in state["pending"]]
        self.leaving = [unpack_leaving(saved) for saved in state["leaving"]]
        self.ramps = from_plain(dict[str, Ramp], state["ramps"])
        self.surgeon.planes = {name: Plane(**plane) for name, plane in state["planes"].items()}
        self.bundles = {
            int(seq): Bundle.from_state_dict(saved) for seq, saved in state["bundles"].items()
        }
        self.archive.load_state_dict(state["archive"])
        self.surgeon.guard.load_state_dict(state["guard"])
        for layer_id, saved in self._saved():
            self.surgeon.check(layer_id, saved)
        for layer_id in self.registry.layers():
            self.surgeon.apply(Edit(layer_id, 0, "restored"))

    def _saved(self) -> Iterator[tuple[int, Saved]]:
        """Yield the layer and the tensors of each expert that is kept outside the model."""
        for birth in self.pending:
            yield birth.decision.layer_id, birth.newborn.saved
        for leaving in self.leaving:
            yield from ((leaving.decision.layer_id, saved) for saved in leaving.saved.values())
        for bundle in self.bundles.values():
            yield from ((bundle.layer_id, saved) for saved in bundle.saved.values())


def _chosen_together(routing: Routing | None, slots: tuple[int, int]) -> bool:
    """Say whether any token chooses both of two slots."""
    if routing is None:
        return False
    first_T, second_T = ((routing.expert_index_KT == slot).any(dim=0) for slot in slots)
    return bool((first_T & second_T).any())
