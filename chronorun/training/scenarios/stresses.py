"""Stress that lasts: what is in force is a pure function of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chronorun.config.scenario import SETS_TOP_K, ScenarioKind
from chronorun.core.state import from_plain
from chronorun.errors import UserError
from chronorun.governance import ControlDecision, PathologyConfig, RecoveryTrajectory
from chronorun.model import MoELayer
from chronorun.telemetry import SystemSnapshot
from chronorun.training.scenarios.base import (
    ExpertSlots,
    Scenario,
    Setting,
    TimedScenario,
    check_expert,
    first_id,
)
from chronorun.training.scenarios.resilience import LayerResilience

DEAD_OFFSET = -20.0
FORCED_OUT = -50.0
"""Added to the logits of experts that forced routing keeps tokens away from."""
_HASH = 2_654_435_761


def force_routing(logits_TE: Tensor, ratio: float, n_dominant: int) -> Tensor:
    """Push a fixed share of the tokens to the first experts.

    Tokens are picked by a hash of their place, so no random number is drawn; their chosen experts
    follow their own preference among the dominant ones. The others are pushed down rather than
    these up: softmax and top-k see no difference, but the router z-loss would punish large logits
    that the router never made.
    """
    T, E = logits_TE.shape
    place = torch.arange(T, device=logits_TE.device)
    picked_T = (place * _HASH % 2**32) < int(ratio * 2**32)
    push_E = torch.zeros(E, device=logits_TE.device)
    push_E[n_dominant:] = FORCED_OUT
    return logits_TE + picked_T[:, None] * push_E


class Collapse(TimedScenario):
    """Routing forced onto two experts, with the probes' severities and trajectory."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.pathology = PathologyConfig.from_severity(self.config.severity.value)
        self.resilience = {layer.layer_id: self._resilience(layer) for layer in self.layers}
        self._said: set[int] = set()

    def _resilience(self, layer: MoELayer) -> LayerResilience:
        severity, run_id = self.pathology.severity, self.run.run_id
        return LayerResilience(
            RecoveryTrajectory("gpt-moe", run_id, layer.layer_id, severity, self.pathology),
            self.config.start_step,
        )

    @property
    def stop_step(self) -> int:
        return self.config.start_step + self.pathology.injection_duration

    def apply(self) -> None:
        for layer in self.layers:
            layer.routing_override = partial(
                force_routing,
                ratio=self.pathology.concentration_ratio,
                n_dominant=self.pathology.n_dominant,
            )

    def remove(self) -> None:
        for layer in self.layers:
            layer.routing_override = None

    def details(self) -> dict[str, Any]:
        return {"pathology": dict(vars(self.pathology))}

    def after_checkpoint(
        self, step: int, snapshot: SystemSnapshot, decisions: Sequence[ControlDecision]
    ) -> list[dict[str, Any]]:
        control = {decision.layer_id: decision for decision in decisions}
        records = []
        for layer_id, seen in self.resilience.items():
            layer, decision = snapshot.layers[layer_id], control.get(layer_id)
            seen.record(
                step,
                decision.computed["pressure"] if decision else 0.0,
                decision.actuator["lens_scale"] if decision else 0.0,
                layer.n_effective,
                layer.top2_share,
                layer.dead_expert_count,
            )
            if layer_id not in self._said and seen.recovery_checkpoints is not None:
                self._said.add(layer_id)
                records.append(
                    {
                        "step": step,
                        "scenario": "collapse",
                        "event": "recovered",
                        "layers": [layer_id],
                        "recovery_checkpoints": seen.recovery_checkpoints,
                        "recovery_steps": seen.recovery_steps,
                    }
                )
        return records

    def finish(self, run_dir: Path) -> None:
        if not any(seen.trajectory.points for seen in self.resilience.values()):
            return
        for layer_id, seen in self.resilience.items():
            alone = len(self.resilience) == 1
            seen.save(run_dir / ("resilience.json" if alone else f"resilience_L{layer_id}.json"))

    def state_dict(self) -> dict[str, Any]:
        points = {str(i): seen.points() for i, seen in self.resilience.items()}
        return super().state_dict() | {"points": points, "said": sorted(self._said)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._said = from_plain(set[int], state["said"])
        for i, seen in self.resilience.items():
            seen.restore(state["points"][str(i)])


class ExpertStress(TimedScenario):
    """A stress on one expert of each layer, which is followed by its id from slot to slot."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        check_expert(setting)
        self.slots = ExpertSlots(setting)

    def slot(self, layer: MoELayer) -> int | None:
        """Return where the expert is now; None once it is gone."""
        return self.slots.find(layer, first_id(layer, self.config.expert))

    def records(self, step: int, event: str) -> list[dict[str, Any]]:
        expert = self.config.expert
        return [
            self.record(
                step,
                event,
                [layer],
                expert=expert,
                expert_id=first_id(layer, expert),
                **self.details(),
            )
            for layer in self.layers
        ]


class DeadExpert(ExpertStress):
    """One expert whose logit is held 20 down: its share falls to exactly 0.

    Loss-free balancing may select it again in the end, with a gate near 0: its bias rises.
    """

    def apply(self) -> None:
        for layer in self.layers:
            layer.routing_override = partial(self._hold_down, layer)

    def remove(self) -> None:
        for layer in self.layers:
            layer.routing_override = None

    def _hold_down(self, layer: MoELayer, logits_TE: Tensor) -> Tensor:
        slot = self.slot(layer)
        if slot is None:
            return logits_TE
        push_E = torch.zeros(logits_TE.shape[1], device=logits_TE.device)
        push_E[slot] = DEAD_OFFSET
        return logits_TE + push_E

    def details(self) -> dict[str, Any]:
        return {"logit_offset": DEAD_OFFSET}


def corrupted(y_ND: Tensor, hit_N: Tensor, noise: float, seed: int) -> Tensor:
    """Return outputs [N, D], those hit with noise of ``noise`` times their own RMS."""
    # A generator of its own: the run's random stream stays that of an unstressed run.
    generator = torch.Generator(y_ND.device).manual_seed(seed)
    noise_ND = torch.randn(y_ND.shape, generator=generator, device=y_ND.device, dtype=y_ND.dtype)
    rms_N1 = y_ND.detach().square().mean(dim=-1, keepdim=True).sqrt()
    return y_ND + hit_N[:, None] * noise * rms_N1 * noise_ND


def noise_seed(run_seed: int, step: int, layer_id: int) -> int:
    """Return the seed of the noise of one layer at one step."""
    return ((run_seed * 1_000_003 + step) * 1_009 + layer_id) % 2**63


class CorruptedExpert(ExpertStress):
    """Noise on one expert's output, as large as the output itself times ``scenario.noise``."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._step = 0

    def apply(self) -> None:
        for layer in self.layers:
            layer.output_hook = partial(self._corrupt, layer)

    def remove(self) -> None:
        for layer in self.layers:
            layer.output_hook = None

    def every_step(self, step: int) -> None:
        self._step = step

    def _corrupt(self, layer: MoELayer, y_ND: Tensor, slot_N: Tensor) -> Tensor:
        slot = self.slot(layer)
        if slot is None:
            return y_ND
        seed = noise_seed(self.run.seed, self._step, layer.layer_id)
        return corrupted(y_ND, slot_N == slot, self.config.noise, seed)

    def details(self) -> dict[str, Any]:
        return {"noise": self.config.noise}


class DomainShift(Scenario):
    """Batches of one domain only, then of another, and back if asked; no layer is touched."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.layers = []

    def is_stressed(self, step: int) -> bool:
        after = step >= self.config.start_step
        return after and not (self.config.shift_back and step >= self.stop_step)

    def domain_weights(self, step: int) -> Mapping[str, float]:
        shifted = self.is_stressed(step)
        return {self.config.shift_to if shifted else self.config.shift_from: 1.0}

    def details(self) -> dict[str, Any]:
        return {"from": self.config.shift_from, "to": self.config.shift_to}


class CapacityWhiplash(TimedScenario):
    """Top-k 2, 1, 2 and capacity 1.25, 1.0, 1.25 on one model.

    ``duration`` after the start the first change comes back; capacity is limited all along, in
    training (in evaluation by ``router.eval_capacity_factor`` alone).
    """

    _LOOSE_K, _TIGHT_K = SETS_TOP_K[ScenarioKind.capacity_whiplash]
    NORMAL = (_LOOSE_K, 1.25)
    TIGHT = (_TIGHT_K, 1.0)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        if self.run.model.num_experts < self.NORMAL[0]:
            raise UserError(
                f"scenario: model.num_experts={self.run.model.num_experts}, expected >= 2 for "
                f"capacity_whiplash; add experts"
            )
        self._set(*self.NORMAL)

    def _set(self, top_k: int, capacity_factor: float) -> None:
        for layer in self.layers:
            layer.top_k, layer.capacity_factor = top_k, capacity_factor

    def apply(self) -> None:
        self._set(*self.TIGHT)

    def remove(self) -> None:
        self._set(*self.NORMAL)

    def details(self) -> dict[str, Any]:
        layer = self.layers[0]
        return {"top_k": layer.top_k, "capacity_factor": layer.capacity_factor}
