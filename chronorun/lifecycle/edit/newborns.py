"""Newborns: the weights, router row and moments of an expert that a decision brings in."""

from __future__ import annotations

from typing import Any

import torch

from chronorun.config.lifecycle import LifecycleConfig, SplitRelease
from chronorun.errors import StorageError
from chronorun.lifecycle.decide.actions import Action, Candidate
from chronorun.lifecycle.edit import births
from chronorun.lifecycle.edit.archive import Archive, Archived
from chronorun.lifecycle.edit.offset_match import match_offset
from chronorun.lifecycle.edit.saved import Newborn, Plane, Saved
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.lifecycle.observe.two_mode import two_modes
from chronorun.model.abilities import can_pair, hidden_axes
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS

DRIFTED_BELOW = 0.9
"""Cosine of a layer's mean inputs below which an archived router row points elsewhere."""


class Newborns:
    """Makes experts from those of a layer, from its newest inputs and from the archive."""

    def __init__(
        self,
        surgeon: Surgeon,
        tap: InputTap,
        archive: Archive,
        config: LifecycleConfig,
        seed: int,
    ) -> None:
        self.surgeon, self.tap, self.archive = surgeon, tap, archive
        self.config, self.seed = config, seed

    def make(self, c: Candidate, step: int, starved_T: Any) -> Newborn:
        """Return the expert of a birth; ``starved_T`` masks the newest tokens served badly."""
        if c.action is Action.SPLIT:
            return self._split(c, step)
        layer_id = c.layer_id
        layer = self.surgeon.layers[layer_id]
        names = self.surgeon.registry.slots(layer_id)
        # Views: a copy of every expert would cost more than the edit.
        tensors = layer.slot_tensors()
        population = [
            {name: tensor.detach()[slot] for name, tensor in tensors.items()}
            for slot in range(len(names))
        ]
        tokens = self.tap.tokens(layer_id, starved_T)
        if c.action is Action.REVIVE:
            archived = self._from_archive(layer_id, c.expert_id)
            saved, rewarm = births.revived(
                archived.saved, population, tokens, self._drifted(layer_id, archived), self.config
            )
            return Newborn(c.expert_id, saved, rewarm)
        cluster = [self.surgeon.read(name) for name in c.cluster or names[:1]]
        generator = births.seeded(self.seed, step, c.expert_id)
        saved, rewarm = births.spawned(
            cluster, population, tokens, hidden_axes(layer), self.config, generator
        )
        return Newborn(c.expert_id, saved, rewarm)

    def _split(self, c: Candidate, step: int) -> Newborn:
        assert c.parent_id is not None
        parent = self.surgeon.read(c.parent_id)
        generator = births.seeded(self.seed, step, c.expert_id)
        saved, rewarm = births.clone_of(parent, self.config, generator)
        plane = self._plane(c.layer_id, c.parent_id)
        exclusive = self.config.split_release is not SplitRelease.at_once
        if plane is not None and not (exclusive and can_pair(self.surgeon.layers[c.layer_id])):
            # With its parent's very row a child would get all tokens or none.
            delta = self.config.split_router_delta
            rows = births.released(parent.values, plane.direction_D, plane.threshold, delta)
            saved.values.update(rows[1])
            plane = None
        return Newborn(c.expert_id, saved, rewarm, plane)

    def quiet_start(self, layer_id: int, saved: Saved) -> float:
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

    def _plane(self, layer_id: int, parent_id: str) -> Plane | None:
        """Return the plane that parts a parent's tokens; None where no tokens are known at all.

        One that had many tokens in the window may have none in the newest step: then the plane
        parts the layer's.
        """
        inputs = self.tap.inputs(layer_id, [self.surgeon.registry.slot_of(parent_id)])
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
