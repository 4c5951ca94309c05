"""An edit that does harm, so that its undoing can be seen: the child of a split is spoiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from chronorun.core.state import from_plain, to_plain
from chronorun.errors import UserError
from chronorun.lifecycle import Action
from chronorun.model import MoELayer
from chronorun.training.scenarios.base import ExpertSlots, Scenario, Setting
from chronorun.training.scenarios.stresses import corrupted, noise_seed


@dataclass(frozen=True)
class Victim:
    """The spoiled child: ``seq`` is its split's, ``since`` the first step with noise."""

    layer_id: int
    expert_id: str
    seq: int
    since: int


class BadEdit(Scenario):
    """Noise on the child of the first split integrated from ``start_step`` on, until it is gone.

    In evaluation only, like an expert that does not generalise: from noise in training the router
    flees within some 20 steps, and what gets no token does no harm. It ends after ``duration``
    steps if the child is not taken back.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        _check_lifecycle(setting)
        self.slots = ExpertSlots(setting)
        self.victim: Victim | None = None
        self._step = 0

    def before_step(self, step: int) -> list[dict[str, Any]]:
        self._step = step
        if self.victim is None:
            self.victim = self._newest_child(step)
            return [] if self.victim is None else self._start(self.victim)
        return self._end(step, self.victim) if self._in_force else []

    def _newest_child(self, step: int) -> Victim | None:
        layer_ids = [layer.layer_id for layer in self.layers]
        lifecycle = self.setting.lifecycle
        for decision in [] if lifecycle is None else lifecycle.decisions:
            since = decision.integrated_step
            late = since is not None and since >= self.config.start_step
            if decision.action == Action.SPLIT and decision.layer_id in layer_ids and late:
                return Victim(decision.layer_id, decision.expert_id, decision.seq, step)
        return None

    def _start(self, victim: Victim) -> list[dict[str, Any]]:
        self._in_force = True
        self.apply()
        return [self._record(victim.since, "start", victim, noise=self.config.noise)]

    def _end(self, step: int, victim: Victim) -> list[dict[str, Any]]:
        layer = self._layer(victim)
        gone = victim.expert_id not in self.slots.ids(layer)
        if not gone and step < victim.since + self.config.duration:
            return []
        self._in_force, layer.output_hook = False, None
        return [self._record(step, "end", victim, reason="gone" if gone else "duration")]

    def _record(self, step: int, event: str, victim: Victim, **more: Any) -> dict[str, Any]:
        what = {"expert_id": victim.expert_id, "seq": victim.seq}
        return self.record(step, event, [self._layer(victim)], **what, **more)

    def _layer(self, victim: Victim) -> MoELayer:
        return self.setting.model.moe_layers()[victim.layer_id]

    def apply(self) -> None:
        assert self.victim is not None
        layer = self._layer(self.victim)
        layer.output_hook = partial(self._corrupt, layer, self.victim.expert_id)

    def _corrupt(self, layer: MoELayer, expert_id: str, y_ND: Tensor, slot_N: Tensor) -> Tensor:
        slot = None if layer.training else self.slots.find(layer, expert_id)
        if slot is None:
            return y_ND
        seed = noise_seed(self.run.seed, self._step, layer.layer_id)
        return corrupted(y_ND, slot_N == slot, self.config.noise, seed)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"victim": to_plain(self.victim)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.victim = from_plain(Victim | None, state["victim"])
        super().load_state_dict(state)


def _check_lifecycle(setting: Setting) -> None:
    config = setting.run.lifecycle
    for name, got, expected, next_step in (
        ("enabled", config.enabled, True, "add lifecycle=aggressive"),
        ("dry_run", config.dry_run, False, "add lifecycle=aggressive"),
        ("split_enabled", config.split_enabled, True, "add lifecycle/split=eager"),
    ):
        if got != expected:
            raise UserError(
                f"scenario: lifecycle.{name}={got}, expected {expected} for scenario=bad_edit, "
                f"which waits for a split; {next_step}"
            )
