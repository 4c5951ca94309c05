"""Plants: one change of a population, made by hand, for a lifecycle to find.

A plant is done before the first forward of ``start_step``, through the lifecycle's surgeon where
there is a lifecycle and one made on the spot where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch

from chronorun.config.lifecycle import LifecycleConfig, MergeOffset
from chronorun.core.state import from_plain
from chronorun.errors import UserError
from chronorun.lifecycle.edit import births
from chronorun.lifecycle.edit.archive import Archived
from chronorun.lifecycle.edit.receipts import Reading, receipt, take_reading
from chronorun.lifecycle.edit.saved import Edit, Saved
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.ledger import Ledger
from chronorun.model import MoELayer
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS
from chronorun.model.shapes import Routing
from chronorun.training.scenarios.base import Scenario, Setting, check_expert, first_id


class Plant(Scenario):
    """A change of two experts, made once in each layer."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        check_expert(setting)
        self.planted: list[dict[str, Any]] | None = None

    def before_step(self, step: int) -> list[dict[str, Any]]:
        if self.planted is not None or step < self.config.start_step:
            return []
        surgeon = self._surgeon()
        self.planted = [self._plant_in(surgeon, layer, step) for layer in self.layers]
        return self.planted

    def _surgeon(self) -> Surgeon:
        lifecycle, heartbeat = self.setting.lifecycle, self.setting.heartbeat
        if lifecycle is not None:
            return lifecycle.population.surgeon
        layers = self.setting.model.moe_layers()
        registry = Registry([layer.num_experts for layer in layers])
        surgeon = Surgeon(
            layers,
            registry,
            UpdateGuard(dict(enumerate(layers)), registry.slot_of, rewarm_steps=0),
            recorder=None if heartbeat is None else heartbeat.recorder,
            lenses=None if heartbeat is None else heartbeat.lenses,
        )
        surgeon.optimizer = self.setting.optimizer
        return surgeon

    def _plant_in(self, surgeon: Surgeon, layer: MoELayer, step: int) -> dict[str, Any]:
        before = self._reading(surgeon, layer, step)
        pair = self.pair(surgeon, layer, before)
        if pair is None:
            why = "an expert of the pair is gone, dormant, a twin or on probation"
            return self.record(step, "skipped", [layer], reason=why)
        expert_id, partner_id = pair
        what = {"expert_id": expert_id, "partner_id": partner_id}
        details = self.plant(surgeon, layer, step, expert_id, partner_id, before)
        after = self._reading(surgeon, layer, step)
        if before is not None and after is not None:
            details["receipt"] = receipt(before, after, [expert_id, partner_id])
        return self.record(step, "planted", [layer], **what, **details)

    def _reading(self, surgeon: Surgeon, layer: MoELayer, step: int) -> Reading | None:
        heartbeat = self.setting.heartbeat
        if heartbeat is None or heartbeat.probe is None:
            return None
        ids = surgeon.registry.slots(layer.layer_id)
        return take_reading(heartbeat.probe, step, layer, ids)

    def is_settled(self, surgeon: Surgeon, layer: MoELayer, expert_id: str) -> bool:
        """Return whether an expert is live, active, and in no edit that is still to be judged."""
        lifecycle, registry = self.setting.lifecycle, surgeon.registry
        busy = {*registry.twins, *registry.twins.values()}
        if lifecycle is not None:
            # A parent whose child waits for its integration is on probation as well.
            busy |= lifecycle.policy.on_probation()
        live = expert_id in registry.slots(layer.layer_id) and expert_id not in busy
        return live and registry[expert_id].state is ExpertState.active

    def pair(
        self, surgeon: Surgeon, layer: MoELayer, reading: Reading | None
    ) -> tuple[str, str] | None:
        """Choose the two experts of the plant; None where they are not to be had."""
        raise NotImplementedError

    def plant(
        self,
        surgeon: Surgeon,
        layer: MoELayer,
        step: int,
        expert_id: str,
        partner_id: str,
        reading: Reading | None,
    ) -> dict[str, Any]:
        """Carry it out; returns what else the log should say.

        ``reading`` is the probe's as things were, if there is one.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"planted": self.planted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.planted = from_plain(list[dict[str, Any]] | None, state["planted"])


class PlantedRedundancy(Plant):
    """The next expert becomes a bit-copy of one: weights, row, offset, bias and moments.

    For merges to find. At top-1 the copy gets no token while the logits of both are equal.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        _check_population(setting, 2)

    def pair(
        self, surgeon: Surgeon, layer: MoELayer, reading: Reading | None
    ) -> tuple[str, str] | None:
        expert = self.config.expert
        first = first_id(layer, expert)
        second = first_id(layer, (expert + 1) % self.run.model.num_experts)
        settled = all(self.is_settled(surgeon, layer, name) for name in (first, second))
        return (first, second) if settled else None

    def plant(
        self,
        surgeon: Surgeon,
        layer: MoELayer,
        step: int,
        expert_id: str,
        partner_id: str,
        reading: Reading | None,
    ) -> dict[str, Any]:
        copy = surgeon.read(expert_id)
        surgeon.apply(Edit(layer.layer_id, write={partner_id: copy}))
        surgeon.guard.forget(partner_id)
        return {}


class PlantedTwoMode(Plant):
    """Two experts become one that serves the tokens of both: for splits to find.

    Of all pairs it is the one that serves most tokens of the probe (``scenario.expert`` does not
    matter): two that have many tokens, and few of them in common. Without a probe it is the pair of
    the most different router rows.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        _check_population(setting, max(2, setting.run.model.top_k + 1))
        start, interval = self.config.start_step, self.run.training.eval_interval
        if start % interval:
            earlier = start - start % interval
            raise UserError(
                f"scenario: scenario.start_step={start}, expected a multiple of "
                f"training.eval_interval={interval} for planted_two_mode, where a telemetry "
                f"window begins; choose {earlier} or {earlier + interval}"
            )

    def pair(
        self, surgeon: Surgeon, layer: MoELayer, reading: Reading | None
    ) -> tuple[str, str] | None:
        names = [
            name
            for name in surgeon.registry.slots(layer.layer_id)
            if self.is_settled(surgeon, layer, name)
        ]
        pairs = list(combinations(names, 2))
        if layer.num_groups <= layer.top_k or not pairs:
            return None
        routing = None if reading is None else reading.routing
        if routing is None:
            return min(pairs, key=lambda pair: row_cosine(surgeon, *pair))
        return max(pairs, key=lambda pair: _served(surgeon, routing, *pair))

    def plant(
        self,
        surgeon: Surgeon,
        layer: MoELayer,
        step: int,
        expert_id: str,
        partner_id: str,
        reading: Reading | None,
    ) -> dict[str, Any]:
        cosine = row_cosine(surgeon, expert_id, partner_id)
        made, absorbed = _merge(surgeon, layer, expert_id, partner_id, reading)
        self._archive(layer, step, partner_id, absorbed, reading)
        before = surgeon.registry.slots(layer.layer_id)
        self._ledger(surgeon).plant(expert_id, partner_id, step)
        surgeon.apply(Edit(layer.layer_id, before, write={expert_id: made}))
        lifecycle = self.setting.lifecycle
        if lifecycle is not None:
            lifecycle.tap.resize(layer.layer_id, layer.num_experts)
        return {"row_cosine": cosine, "logit_offset": float(made.values[LOGIT_OFFSET])}

    def _ledger(self, surgeon: Surgeon) -> Ledger:
        lifecycle = self.setting.lifecycle
        if lifecycle is not None:
            return lifecycle.ledger
        return Ledger(surgeon.registry, LifecycleConfig(enabled=False))

    def _archive(
        self, layer: MoELayer, step: int, expert_id: str, saved: Saved, reading: Reading | None
    ) -> None:
        """Leave the absorbed expert where a revival would look for it."""
        lifecycle = self.setting.lifecycle
        if lifecycle is None:
            return
        # Of the probe, not of the newest training forward: a resumed run knows none yet.
        routing = None if reading is None else reading.routing
        centroid_D = None if routing is None else routing.x_TD.mean(0)
        lifecycle.population.archive.put(expert_id, step, Archived(saved, centroid_D))


def row_cosine(surgeon: Surgeon, expert_id: str, other_id: str) -> float:
    """Return the cosine of two experts' router rows."""
    rows = [surgeon.read(name).values[ROUTER_ROWS] for name in (expert_id, other_id)]
    return float(torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0))


def _served(surgeon: Surgeon, routing: Routing, *expert_ids: str) -> int:
    """Return how many tokens choose any of some experts."""
    slots = torch.tensor([surgeon.registry.slot_of(name) for name in expert_ids])
    index_KT = routing.expert_index_KT
    return int(torch.isin(index_KT, slots.to(index_KT.device)).any(dim=0).sum())


def _merge(
    surgeon: Surgeon, layer: MoELayer, expert_id: str, partner_id: str, reading: Reading | None
) -> tuple[Saved, Saved]:
    """Return the merged expert and the one that it absorbs, as that was."""
    survivor, absorbed = surgeon.read(expert_id), surgeon.read(partner_id)
    # The published defaults, not the settings of the run's own merges: uniform weights.
    made = births.merged(
        survivor, absorbed, (1.0, 1.0), layer.hidden_axes(), LifecycleConfig(enabled=False)
    )
    slots = surgeon.registry.slot_of(expert_id), surgeon.registry.slot_of(partner_id)
    routing = None if reading is None else reading.routing
    offset = births.merged_offset(made.values, routing, slots, MergeOffset.match)
    made.values[LOGIT_OFFSET] = torch.full_like(made.values[LOGIT_OFFSET], offset)
    return made, absorbed


def _check_population(setting: Setting, at_least: int) -> None:
    got = setting.run.model.num_experts
    if got < at_least:
        raise UserError(
            f"scenario: model.num_experts={got}, expected >= {at_least} for "
            f"{setting.run.scenario.kind.value}; add experts"
        )
