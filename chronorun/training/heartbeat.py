"""One evaluation of the routing: window -> snapshot -> alerts -> controller -> lens -> lifecycle.

Everything observed between two evaluations stays on the device; here it comes over in one copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chronorun.core.processes import digest_plain
from chronorun.core.run_files import ARCHIVE, PRIORS
from chronorun.errors import UserError
from chronorun.governance import ChronoLens, ControlDecision, Controller, save_priors
from chronorun.lifecycle import Action, LifecycleCoordinator, LifecycleDecision
from chronorun.model import GPT, MoELayer, Routing
from chronorun.telemetry import (
    AlertHistory,
    RoutingRecorder,
    SystemSnapshot,
    WindowStats,
)
from chronorun.training.context import RunContext
from chronorun.training.edit_plan import decider
from chronorun.training.probe import Probe


@dataclass(frozen=True)
class Beat:
    """What one evaluation found: metrics by name, alerts, the records behind them."""

    metrics: dict[str, float] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)
    snapshot: SystemSnapshot | None = None
    decisions: list[ControlDecision] = field(default_factory=list)
    actions: list[LifecycleDecision] = field(default_factory=list)


class Heartbeat:
    """Watches and steers the routing of one run: recorder, controller, lenses, lifecycle."""

    def __init__(
        self,
        context: RunContext,
        model: GPT,
        optimizer: torch.optim.Optimizer | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.context = context
        config = self.config = context.config
        if config.governance.enabled and not config.telemetry.enabled:
            raise UserError(
                "configuration: telemetry.enabled=False, expected True while governance acts on "
                "it; add governance=off or drop telemetry=off"
            )
        self.logs = context.logs
        self.probe = probe
        self.layers = model.moe_layers()
        self.alert_history = AlertHistory()
        self.recorder = self._recorder() if config.telemetry.enabled else None
        self.controller: Controller | None = None
        self.lenses: dict[int, ChronoLens] = {}
        if config.governance.enabled:
            self._govern()
        self.lifecycle: LifecycleCoordinator | None = None
        if config.lifecycle.enabled:
            self._manage(model, optimizer)

    def _recorder(self) -> RoutingRecorder:
        recorder = RoutingRecorder(
            [layer.num_experts for layer in self.layers],
            self.config.model.top_k,
            self.config.training.eval_interval,
            self.context.device,
            self.config.telemetry,
            self.context.corpus.vocab_size,
            self.context.processes,
        )
        for layer in self.layers:
            layer.observer = recorder.observe
        return recorder

    def _govern(self) -> None:
        governance = self.config.governance
        self.controller = Controller(
            len(self.layers),
            [layer.num_experts for layer in self.layers],
            governance,
            writer=self.logs.control_decisions,
        )
        self.controller.initialize(self.config.run_id)
        for layer in self.layers:
            self.lenses[layer.layer_id] = attach_lens(
                layer, governance.lens_rank, self.context.device
            )
        if governance.priors_from:
            self.controller.load_priors(governance.priors_from)

    def _manage(self, model: GPT, optimizer: torch.optim.Optimizer | None) -> None:
        if self.recorder is None:
            raise UserError(
                "configuration: telemetry.enabled=False, expected True while the lifecycle acts on "
                "it; add lifecycle=off or drop telemetry=off"
            )
        config = self.config
        self.lifecycle = LifecycleCoordinator(
            self.controller,
            model,
            config.lifecycle,
            optimizer=optimizer,
            recorder=self.recorder,
            lenses=self.lenses,
            probe=self.probe,
            logs=self.logs.lifecycle,
            archive_dir=self.context.run_dir / ARCHIVE,
            run_id=config.run_id,
            seed=config.seed,
            steps_announced=True,
            warmup_steps=config.lifecycle.warmup(config.optimizer.warmup_steps),
            max_top_k=config.model.top_k,
            decide=decider(config),
            processes=self.context.processes,
        )
        for layer in self.layers:
            layer.observer = partial(_observe_both, self.recorder, self.lifecycle)
            layer.gate_observer = self.lifecycle.observe_gates

    def begin_step(self, step: int) -> list[LifecycleDecision]:
        """Let newborn experts in before the forward of a step; returns what was carried out."""
        return [] if self.lifecycle is None else self.lifecycle.begin_step(step)

    def before_forward(self, tokens_BS: Tensor) -> None:
        """Note the tokens of a training forward, [B, S]."""
        if self.recorder is not None:
            self.recorder.begin_step(tokens_BS)

    def end_step(self, step: int, loss: Tensor) -> None:
        """Count a step, which is done, in the window."""
        if self.recorder is not None:
            self.recorder.end_step(step, loss)

    def beat(self, step: int, train_loss: float, val_loss: float) -> Beat:
        """Close the window at ``step`` and let the controller answer it."""
        if self.recorder is None:
            return Beat()
        window = self.recorder.flush()
        run_id = self.config.run_id
        ids = None
        if self.lifecycle is not None:
            registry = self.lifecycle.registry
            ids = [registry.slots(layer_id) for layer_id in registry.layers()]
        snapshot = SystemSnapshot.from_window(
            window,
            step,
            train_loss,
            val_loss,
            run_id,
            "gpt-moe",
            self.alert_history,
            expert_ids=ids,
        )
        if self.config.telemetry.write_events:
            for event in window.routing_events(run_id):
                self.logs.routing_events.write(event.to_dict())
        self.logs.snapshots.write(snapshot.to_dict())
        decisions: list[ControlDecision] = []
        if self.controller is not None:
            decisions = self.controller.update(snapshot, self.lenses)
        self._agree_on_routing(snapshot, decisions)
        metrics = _routing_metrics(snapshot, window) | _control_metrics(decisions)
        alerts, actions = list(snapshot.alerts), []
        if self.lifecycle is not None:
            actions = self.lifecycle.evaluate(snapshot, decisions)
            alerts += self.lifecycle.alerts
            counts = self.lifecycle.counts
            metrics |= {f"lifecycle/{a.lower()}": float(counts[a]) for a in Action}
        return Beat(metrics, alerts, snapshot, decisions, actions)

    def _agree_on_routing(self, snapshot: SystemSnapshot, decisions: list[ControlDecision]) -> None:
        """Compare a window's figures, and how the lenses answer them, with other processes."""

        def digest() -> str:
            plain = [snapshot.to_dict(), *(decision.to_dict() for decision in decisions)]
            for record in plain:
                record.pop("timestamp", None)
            return digest_plain(plain)

        self.context.processes.agree(
            f"the routing counts and losses after step {snapshot.step}", digest
        )

    def write_waiting(self) -> None:
        """Log the structural decisions that a completed run leaves unfinished."""
        if self.lifecycle is not None:
            self.lifecycle.write_waiting()

    def finish(self, run_dir: Path) -> None:
        """Save what this run taught about its layers, for ``governance.priors_from``."""
        if self.controller is not None:
            save_priors(
                self.controller.get_all_states(),
                run_dir / PRIORS,
                self.config.governance,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return recorder, alert, controller and lens state (nested, with tensors)."""
        return {
            "alerts": self.alert_history.state_dict(),
            "recorder": self.recorder.state_dict() if self.recorder else None,
            "controller": self.controller.state_dict() if self.controller else None,
            "lenses": {str(key): lens.state() for key, lens in self.lenses.items()},
            "lifecycle": self.lifecycle.state_dict() if self.lifecycle else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the model is already that of the checkpoint."""
        self.alert_history.load_state_dict(state["alerts"])
        if self.recorder is not None and state["recorder"] is not None:
            self.recorder.load_state_dict(state["recorder"])
        if self.controller is not None and state["controller"] is not None:
            self.controller.load_state_dict(state["controller"])
        for key, saved in state["lenses"].items():
            if int(key) in self.lenses:
                self.lenses[int(key)].load_state(saved)
        if self.lifecycle is not None and state["lifecycle"] is not None:
            self.lifecycle.load_state_dict(state["lifecycle"])

    def check_window(self, step: int) -> None:
        """Check a restored window after ``step`` steps.

        Raises ValueError for one of another population, or of more steps than fit.
        """
        recorder = self.recorder
        if recorder is None:
            return
        population = [layer.num_experts for layer in self.layers]
        if recorder.population != population:
            raise ValueError(
                f"telemetry window is of {recorder.population} experts, expected {population}"
            )
        most = step % self.config.training.eval_interval
        if recorder.open_steps > most:
            raise ValueError(
                f"telemetry window has {recorder.open_steps} steps, expected at most {most} "
                f"after step {step}"
            )


def _observe_both(
    recorder: RoutingRecorder, lifecycle: LifecycleCoordinator, layer_id: int, routing: Routing
) -> None:
    recorder.observe(layer_id, routing)
    lifecycle.observe(layer_id, routing)


def attach_lens(layer: MoELayer, rank: int, device: torch.device) -> ChronoLens:
    """Put a lens of scale 0 before a layer's router and return it."""
    lens = ChronoLens(layer.router.weight.shape[1], rank, layer.layer_id).to(device)
    lens.set_router_weights(partial(_router_rows, layer))
    # The method, not the module: a lens is no part of the model's weights.
    layer.lens = lens.forward
    return lens


def _router_rows(layer: MoELayer) -> Tensor:
    return layer.router.weight


def _routing_metrics(snapshot: SystemSnapshot, window: WindowStats) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for layer, stats in zip(snapshot.layers, window.layers, strict=True):
        name = f"moe/L{layer.layer_id}"
        metrics |= {
            f"{name}/num_experts": len(layer.utilization_shares),
            f"{name}/n_effective": layer.n_effective,
            f"{name}/top2_share": layer.top2_share,
            f"{name}/dead_expert_count": layer.dead_expert_count,
            f"{name}/token_entropy_nats": stats.token_entropy_nats,
            f"{name}/overflow_fraction": stats.overflow_fraction,
            f"{name}/dropped_fraction": stats.dropped_fraction,
        }
    return metrics


def _control_metrics(decisions: list[ControlDecision]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for decision in decisions:
        name = f"moe/L{decision.layer_id}"
        metrics |= {
            f"{name}/topology_debt": decision.computed["debt"],
            f"{name}/pressure": decision.computed["pressure"],
            f"{name}/lens_scale": decision.actuator["lens_scale"],
            f"{name}/abstain": float(decision.computed["abstain"]),
        }
    return metrics
