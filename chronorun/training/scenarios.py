"""Stress injected into a real training run.

What is in force is a pure function of the step, so that a resumed run is stressed exactly as one
never stopped. What starts and ends is logged in ``scenario_events.jsonl``: detection is scored
against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chronorun.config.run import RunConfig
from chronorun.config.scenario import ScenarioConfig, ScenarioKind
from chronorun.data import TokenizedCorpus
from chronorun.errors import UserError
from chronorun.governance import (
    ControlDecision,
    PathologyConfig,
    PathologyProbe,
    ResilienceSurface,
)
from chronorun.model import GPT, MoELayer
from chronorun.telemetry import SystemSnapshot

DEAD_OFFSET = -20.0
FORCED_OUT = -50.0
"""Added to the logits of experts that forced routing keeps tokens away from."""
_HASH = 2_654_435_761


class Scenario:
    """No stress: the base of all, and what ``scenario=none`` means."""

    def __init__(self, config: ScenarioConfig, run: RunConfig, model: GPT) -> None:
        self.config = config
        self.run = run
        layers = model.moe_layers()
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
        """Say whether the stress is in force at a step."""
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

    def before_step(self, step: int) -> list[dict[str, Any]]:
        """Bring the stress into line with the step; returns a record where it starts or ends."""
        records = []
        wanted = self.is_stressed(step)
        if wanted != self._in_force:
            (self.apply if wanted else self.remove)()
            self._in_force = wanted
            records.append(
                {
                    "step": step,
                    "scenario": self.config.kind.value,
                    "event": "start" if wanted else "end",
                    "layers": [layer.layer_id for layer in self.layers],
                    **self.details(),
                }
            )
        if wanted:
            self.every_step(step)
        return records

    def domain_weights(self, step: int) -> Mapping[str, float] | None:
        """Return the mix of domains of a step's batch; None for the corpus's own."""
        return None

    def after_checkpoint(
        self, step: int, snapshot: SystemSnapshot, decisions: Sequence[ControlDecision]
    ) -> list[dict[str, Any]]:
        """Look at an evaluation checkpoint; returns records for the log."""
        return []

    def finish(self, run_dir: Path) -> None:
        """Write what the scenario measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must know."""
        return {"in_force": self._in_force}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; a stress that lives in hooks is put into force again."""
        self._in_force = bool(state["in_force"])
        if self._in_force:
            self.reapply()

    def reapply(self) -> None:
        """Put back what the restored model does not hold (hooks, not weights)."""
        self.apply()


class _TimedScenario(Scenario):
    def is_stressed(self, step: int) -> bool:
        return self.config.start_step <= step < self.stop_step


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


class Collapse(_TimedScenario):
    """Routing forced onto two experts, with the probes' severities and recovery trajectory."""

    def __init__(self, config: ScenarioConfig, run: RunConfig, model: GPT) -> None:
        super().__init__(config, run, model)
        self.pathology = PathologyConfig.from_severity(config.severity)
        self.probes = {layer.layer_id: self._probe(layer) for layer in self.layers}
        self._said: set[int] = set()

    def _probe(self, layer: MoELayer) -> PathologyProbe:
        probe = PathologyProbe("gpt-moe", self.run.run_id)
        probe.start_probe(layer.layer_id, self.pathology, self.config.start_step)
        return probe

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

    def _surface(self, layer_id: int) -> ResilienceSurface:
        surface = self.probes[layer_id].get_surface(layer_id)
        assert surface is not None
        return surface

    def after_checkpoint(
        self, step: int, snapshot: SystemSnapshot, decisions: Sequence[ControlDecision]
    ) -> list[dict[str, Any]]:
        control = {decision.layer_id: decision for decision in decisions}
        records = []
        for layer_id, probe in self.probes.items():
            layer, decision = snapshot.layers[layer_id], control.get(layer_id)
            probe.record_point(
                step,
                decision.computed["pressure"] if decision else 0.0,
                decision.actuator["lens_scale"] if decision else 0.0,
                layer.n_effective,
                layer.top2_share,
                layer.dead_expert_count,
            )
            surface = self._surface(layer_id)
            if layer_id not in self._said and surface.recovery_checkpoints is not None:
                self._said.add(layer_id)
                records.append(
                    {
                        "step": step,
                        "scenario": "collapse",
                        "event": "recovered",
                        "layers": [layer_id],
                        "recovery_checkpoints": surface.recovery_checkpoints,
                        "recovery_steps": surface.recovery_steps,
                    }
                )
        return records

    def finish(self, run_dir: Path) -> None:
        if not any(self._surface(layer_id).points for layer_id in self.probes):
            return
        for layer_id, probe in self.probes.items():
            name = "resilience.json" if len(self.probes) == 1 else f"resilience_L{layer_id}.json"
            probe.save(run_dir / name)

    def state_dict(self) -> dict[str, Any]:
        points = {str(i): self._surface(i).points for i in self.probes}
        return super().state_dict() | {"points": points, "said": sorted(self._said)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._said = set(state["said"])
        for i in self.probes:
            self._surface(i).points[:] = state["points"][str(i)]


class DeadExpert(_TimedScenario):
    """One expert whose routing offset is held at -20: its share falls to exactly 0.

    Loss-free balancing may select it again in the end, with a gate near 0: its bias rises.
    """

    def __init__(self, config: ScenarioConfig, run: RunConfig, model: GPT) -> None:
        super().__init__(config, run, model)
        _check_expert(self.layers, config.expert)

    def apply(self) -> None:
        for layer in self.layers:
            layer.router.logit_offset[self.config.expert] += DEAD_OFFSET

    def remove(self) -> None:
        for layer in self.layers:
            layer.router.logit_offset[self.config.expert] -= DEAD_OFFSET

    def reapply(self) -> None:
        """The restored offset is still there."""

    def details(self) -> dict[str, Any]:
        return {"expert": self.config.expert, "logit_offset": DEAD_OFFSET}


class CorruptedExpert(_TimedScenario):
    """Noise on one expert's output, as large as the output itself times ``scenario.noise``."""

    def __init__(self, config: ScenarioConfig, run: RunConfig, model: GPT) -> None:
        super().__init__(config, run, model)
        _check_expert(self.layers, config.expert)
        self._step = 0

    def apply(self) -> None:
        for layer in self.layers:
            layer.output_hook = partial(self._corrupt, layer.layer_id)

    def remove(self) -> None:
        for layer in self.layers:
            layer.output_hook = None

    def every_step(self, step: int) -> None:
        self._step = step

    def _corrupt(self, layer_id: int, y_ND: Tensor, slot_N: Tensor) -> Tensor:
        # A generator of its own: the run's random stream stays that of an unstressed run.
        seed = ((self.run.seed * 1_000_003 + self._step) * 1_009 + layer_id) % 2**63
        generator = torch.Generator(y_ND.device).manual_seed(seed)
        noise_ND = torch.randn(
            y_ND.shape, generator=generator, device=y_ND.device, dtype=y_ND.dtype
        )
        rms_N1 = y_ND.detach().square().mean(dim=-1, keepdim=True).sqrt()
        hit_N1 = (slot_N == self.config.expert)[:, None]
        return y_ND + hit_N1 * self.config.noise * rms_N1 * noise_ND

    def details(self) -> dict[str, Any]:
        return {"expert": self.config.expert, "noise": self.config.noise}


class DomainShift(Scenario):
    """Batches of one domain only, then of another, and back if asked; no layer is touched."""

    def __init__(self, config: ScenarioConfig, run: RunConfig, model: GPT) -> None:
        super().__init__(config, run, model)
        self.layers = []

    def is_stressed(self, step: int) -> bool:
        after = step >= self.config.start_step
        return after and not (self.config.shift_back and step >= self.stop_step)

    def domain_weights(self, step: int) -> Mapping[str, float]:
        shifted = self.is_stressed(step)
        return {self.config.shift_to if shifted else self.config.shift_from: 1.0}

    def details(self) -> dict[str, Any]:
        return {"from": self.config.shift_from, "to": self.config.shift_to}


class CapacityWhiplash(Scenario):
    """Top-k 2, 1, 2 and capacity 1.25, 1.0, 1.25 on one model.

    ``duration`` after the start the first change comes back; capacity is limited all along.
    """

    NORMAL = (2, 1.25)
    TIGHT = (1, 1.0)

    def __init__(self, config: ScenarioConfig, run: RunConfig, model: GPT) -> None:
        super().__init__(config, run, model)
        if run.model.num_experts < self.NORMAL[0]:
            raise UserError(
                f"scenario: model.num_experts={run.model.num_experts}, expected >= 2 for "
                f"capacity_whiplash; add experts"
            )
        self._set(*self.NORMAL)

    def _set(self, top_k: int, capacity_factor: float) -> None:
        for layer in self.layers:
            layer.top_k, layer.capacity_factor = top_k, capacity_factor

    def is_stressed(self, step: int) -> bool:
        return self.config.start_step <= step < self.stop_step

    def apply(self) -> None:
        self._set(*self.TIGHT)

    def remove(self) -> None:
        self._set(*self.NORMAL)

    def details(self) -> dict[str, Any]:
        layer = self.layers[0]
        return {"top_k": layer.top_k, "capacity_factor": layer.capacity_factor}


def _check_expert(layers: Sequence[MoELayer], expert: int) -> None:
    smallest = min(layer.num_experts for layer in layers)
    if expert >= smallest:
        raise UserError(
            f"scenario: scenario.expert={expert}, expected < {smallest}; choose a live expert"
        )


_KINDS: dict[ScenarioKind, type[Scenario]] = {
    ScenarioKind.none: Scenario,
    ScenarioKind.collapse: Collapse,
    ScenarioKind.dead_expert: DeadExpert,
    ScenarioKind.corrupted_expert: CorruptedExpert,
    ScenarioKind.domain_shift: DomainShift,
    ScenarioKind.capacity_whiplash: CapacityWhiplash,
}


def build_scenario(run: RunConfig, model: GPT, corpus: TokenizedCorpus) -> Scenario:
    """Return the scenario of a run. Raises UserError where it does not fit the model or corpus."""
    config = run.scenario
    if config.kind is ScenarioKind.domain_shift:
        for domain in (config.shift_from, config.shift_to):
            corpus.split("train").domain_tokens(domain)
    if config.kind is not ScenarioKind.none and config.start_step >= run.training.max_steps:
        raise UserError(
            f"scenario: scenario.start_step={config.start_step}, expected < "
            f"training.max_steps={run.training.max_steps}; the stress would never come"
        )
    if config.kind is ScenarioKind.collapse and not run.telemetry.enabled:
        raise UserError(
            "scenario: telemetry.enabled=False, expected True for scenario=collapse, which "
            "measures the recovery with it; drop telemetry=off"
        )
    return _KINDS[config.kind](config, run, model)
