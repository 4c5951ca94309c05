"""What all scenarios share: when they are in force, what they log, and where an expert is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorun.config.run import RunConfig
from chronorun.core.state import from_plain
from chronorun.errors import UserError
from chronorun.governance import ControlDecision
from chronorun.model import GPT, MoELayer
from chronorun.telemetry import SystemSnapshot

if TYPE_CHECKING:
    from chronorun.lifecycle import LifecycleCoordinator
    from chronorun.training.heartbeat import Heartbeat


@dataclass(frozen=True)
class Setting:
    """The run that a scenario is played in."""

    run: RunConfig
    model: GPT
    heartbeat: Heartbeat | None = None
    optimizer: torch.optim.Optimizer | None = None

    @property
    def lifecycle(self) -> LifecycleCoordinator | None:
        """What manages the experts, if anything does."""
        return None if self.heartbeat is None else self.heartbeat.lifecycle


class Scenario:
    """No stress: the base of all, and what ``scenario=none`` means."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.run = setting.run
        self.config = config = setting.run.scenario
        layers = setting.model.moe_layers()
        if config.layer >= len(layers):
            raise UserError(
                f"scenario: scenario.layer={config.layer}, expected < {len(layers)} (MoE layers "
                f"are counted from 0; -1 means all); choose another layer"
            )
        self.layers = layers if config.layer < 0 else layers[config.layer : config.layer + 1]
        self._in_force = False

    @property
    def stop_step(self) -> int:
        """First step after the stress."""
        return self.config.start_step + self.config.duration

    def is_stressed(self, step: int) -> bool:
        """Return whether the stress is in force at a step."""
        return False

    def apply(self) -> None:
        """Put the stress into force."""

    def remove(self) -> None:
        """Take the stress away."""

    def every_step(self, step: int) -> None:
        """Do what a stress in force needs anew at each step."""

    def details(self) -> dict[str, Any]:
        """Return what the log should say of the stress."""
        return {}

    def record(
        self, step: int, event: str, layers: Sequence[MoELayer], **details: Any
    ) -> dict[str, Any]:
        """Return one record of ``scenario_events.jsonl``."""
        return {
            "step": step,
            "scenario": self.config.kind.value,
            "event": event,
            "layers": [layer.layer_id for layer in layers],
            **details,
        }

    def records(self, step: int, event: str) -> list[dict[str, Any]]:
        """Return what the log says of a start or an end."""
        return [self.record(step, event, self.layers, **self.details())]

    def before_step(self, step: int) -> list[dict[str, Any]]:
        """Bring the stress into line with the step; returns records where it starts or ends."""
        records = []
        wanted = self.is_stressed(step)
        if wanted != self._in_force:
            (self.apply if wanted else self.remove)()
            self._in_force = wanted
            records = self.records(step, "start" if wanted else "end")
        if wanted:
            self.every_step(step)
        return records

    def domain_weights(self, step: int) -> Mapping[str, float] | None:
        """Return the mix of domains of a step's batch; None for the corpus's own."""
        return None

    def after_checkpoint(
        self, step: int, snapshot: SystemSnapshot, decisions: Sequence[ControlDecision]
    ) -> list[dict[str, Any]]:
        """Look at an evaluation; returns records for the log."""
        return []

    def finish(self, run_dir: Path) -> None:
        """Write what the scenario measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must know."""
        return {"in_force": self._in_force}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; a stress that lives in hooks is put into force again."""
        self._in_force = from_plain(bool, state["in_force"])
        if self._in_force:
            self.apply()


class TimedScenario(Scenario):
    """A stress from ``start_step`` on, for ``duration`` steps."""

    def is_stressed(self, step: int) -> bool:
        return self.config.start_step <= step < self.stop_step


def first_id(layer: MoELayer, number: int) -> str:
    """Return the id of the expert that was in slot ``number`` of a layer when the run began."""
    return f"L{layer.layer_id}_E{number}"


class ExpertSlots:
    """Finds the slot of an expert at this very forward: edits move slots, ids stay."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._weights: dict[str, Tensor] = {}

    def ids(self, layer: MoELayer) -> list[str]:
        """Return the ids of a layer's experts by slot."""
        lifecycle = self.setting.lifecycle
        if lifecycle is None:
            return [first_id(layer, number) for number in range(layer.num_experts)]
        return lifecycle.registry.slots(layer.layer_id)

    def find(self, layer: MoELayer, expert_id: str) -> int | None:
        """Return the slot of an expert; None where it is not there (any more)."""
        ids = self.ids(layer)
        if expert_id not in ids:
            return None
        slot, w1_EDF = ids.index(expert_id), layer.experts.w1.detach()
        if layer.num_experts == len(ids):
            self._weights[expert_id] = w1_EDF[slot]
            return slot
        # The probe tries what the layer would be without some expert, or with one more: the
        # registry knows nothing of it. Training forwards never come here (it waits for the device).
        known = self._weights.get(expert_id)
        if known is None:
            return None
        found = (w1_EDF == known).flatten(1).all(dim=1).nonzero().flatten().tolist()
        return int(found[0]) if found else None


def check_expert(setting: Setting) -> None:
    """Refuse an expert that no layer began with."""
    expert, n_experts = setting.run.scenario.expert, setting.run.model.num_experts
    if expert >= n_experts:
        raise UserError(
            f"scenario: scenario.expert={expert}, expected < {n_experts}; choose a live expert"
        )
