"""The coordinator: at every evaluation checkpoint it looks, decides, and has the edits made."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import nn

from chronorun.config.governance import ControlConfig
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.core.processes import ALONE, Processes, digest_plain
from chronorun.core.state import from_plain, to_plain
from chronorun.errors import UserError
from chronorun.lifecycle.decide.actions import Action, Verdict
from chronorun.lifecycle.decide.cycle import Outcome, advance
from chronorun.lifecycle.decide.plans import Decide
from chronorun.lifecycle.decide.policy_state import PolicyState, due_probations
from chronorun.lifecycle.decide.signals import LayerSignals, ProbationReading, check_signals
from chronorun.lifecycle.edit.archive import Archive
from chronorun.lifecycle.edit.population import Population
from chronorun.lifecycle.edit.receipts import ProbeLoss
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.undo import judge_by_probe, leave_one_out
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.lifecycle.experts import aging
from chronorun.lifecycle.experts.basins import basin_records
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.observe.reader import LayerInput, SignalReader
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.lifecycle.record.logs import LifecycleLogs
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS, PopulationModel
from chronorun.model.shapes import Routing

if TYPE_CHECKING:
    from chronorun.governance.controller import Controller
    from chronorun.governance.decisions import ControlDecision
    from chronorun.telemetry.recorder import RoutingRecorder
    from chronorun.telemetry.snapshots import LayerSnapshot, SystemSnapshot
    from chronorun.telemetry.windows import LayerWindow

MOST_SUSPECTS = 2
"""Experts that are left out in trials at one checkpoint: each costs a forward of the probe."""


class LifecycleCoordinator:
    """Manages the expert population of a model beside a controller.

    ``model`` offers the population protocol (``chronorun.model.population``). Call ``evaluate``
    after each ``Controller.update`` (or attach a ``LifecycleHook``). It uses what else it is given:

    - ``optimizer`` (or ``attach_optimizer``): its moments move with the experts;
    - ``recorder``: its windows tell what tokens an expert gets (merges and revivals need that) and
      follow the population; ``observe`` is to be called by the layers beside it;
    - ``lenses`` by layer id: their shares follow the population;
    - ``probe(step)``: the model's loss on held-out tokens. Without it edits are neither measured
      nor judged, and nothing is rolled back;
    - ``archive_dir``: archived experts are kept there, in memory otherwise;
    - ``decide``: decides in the policy's place (see ``edit_plan``);
    - ``processes``: those that train the model together. They compare what they read, decided and
      made of it; RanksDisagreeError ends them all before a decision is logged.
    """

    def __init__(
        self,
        controller: Controller | None,
        model: PopulationModel,
        config: LifecycleConfig | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        recorder: RoutingRecorder | None = None,
        lenses: Mapping[int, Any] | None = None,
        probe: ProbeLoss | None = None,
        logs: LifecycleLogs | None = None,
        archive_dir: Path | None = None,
        run_id: str = "",
        seed: int = 0,
        warmup_steps: int | None = None,
        max_top_k: int = 1,
        decide: Decide = advance,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config if config is not None else LifecycleConfig()
        self.controller = controller
        self.recorder = recorder
        self.run_id = run_id
        self.processes = processes
        self.logs = logs if logs is not None else LifecycleLogs.nowhere()
        self.warmup_steps = self.config.warmup(0) if warmup_steps is None else warmup_steps
        self.layers = list(model.moe_layers())
        _check_layers(self.layers)
        n_experts = [layer.num_experts for layer in self.layers]
        self.registry = Registry(n_experts, self.config.basin_window_size)
        types = None if recorder is None else recorder.token_types_T
        self.tap = InputTap(n_experts, types, processes)
        guard = UpdateGuard(
            dict(enumerate(self.layers)),
            self.registry.slot_of,
            self.config.rewarm_steps,
            processes,
        )
        surgeon = Surgeon(self.layers, self.registry, guard, recorder=recorder, lenses=lenses)
        archive = Archive(archive_dir, writes=processes.is_first)
        self.population = Population(
            surgeon, self.tap, archive, self.config, seed=seed, probe=probe
        )
        control = controller.config if controller is not None else ControlConfig()
        self.reader = SignalReader(
            self.layers, self.registry, self.tap, self.config, control, max_top_k
        )
        self.decide = decide
        self.policy = PolicyState()
        self.counts: Counter[str] = Counter()
        self.cycles = 0
        self.alerts: list[str] = []
        self.decisions: list[LifecycleDecision] = []
        self.last_step = 0
        self._checkpoint_steps = 1
        self._steps_taken = 0
        self._step_hook: Any = None
        if isinstance(model, nn.Module):
            model.register_forward_pre_hook(self._before_forward)
        if optimizer is not None:
            self.attach_optimizer(optimizer)

    # ---- around training steps --------------------------------------------------------------

    def attach_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Let this optimizer's moments move with the experts, and guard its steps."""
        surgeon = self.population.surgeon
        surgeon.optimizer = optimizer
        surgeon.guard.attach(optimizer)
        if self._step_hook is not None:
            self._step_hook.remove()
        self._step_hook = optimizer.register_step_post_hook(self._after_step)

    def expect_top_k(self, top_k: int) -> None:
        """Know of a top-k that the run will use: no layer shrinks below the largest."""
        self.reader.max_top_k = max(self.reader.max_top_k, top_k)

    def observe(self, layer_id: int, routing: Routing) -> None:
        """Take one layer's routing of a training forward: for the layers' ``observer``."""
        self.tap.observe(layer_id, routing)
        self.population.surgeon.guard.count_tokens(layer_id, routing.tokens_per_expert_E)

    def observe_gates(self, layer_id: int, routing: Routing) -> None:
        """Take one layer's routing with its autograd graph: for the layers' ``gate_observer``."""
        self.tap.observe_gates(layer_id, routing)

    def begin_step(self, step: int) -> list[LifecycleDecision]:
        """Let newborns in, and faded experts out, before the first forward of a training step.

        Returns the decisions that are carried out with it.
        """
        is_due = self.population.is_due(step)
        done = [*self.population.remove_faded(step), *self.population.integrate(step)]
        if is_due:
            self._agree_on_population(step)
        for decision in done:
            self._record(decision)
        self._write_transitions()
        self.population.set_ramps(step)
        return done

    def _before_forward(self, model: nn.Module, _inputs: Any) -> None:
        waits = self.population.pending or self.population.leaving or self.population.ramps
        if model.training and waits:
            self.begin_step(self.last_step + self._steps_taken)

    def _after_step(self, *_: Any) -> None:
        self._steps_taken += 1
        self.tap.end_step()

    # ---- at evaluation checkpoints ----------------------------------------------------------

    def evaluate(
        self, snapshot: SystemSnapshot, decisions: Sequence[ControlDecision]
    ) -> list[LifecycleDecision]:
        """Look at a checkpoint and act where it is time to.

        Returns what was decided. Births among it wait for the next training forward, and an expert
        that leaves may fade out first (``integrated_step`` is None until then); with ``dry_run``
        nothing is carried out at all. Raises UserError for a snapshot of another population.
        """
        step = snapshot.step
        for layer in snapshot.layers:
            self._check_population(layer)
        self._checkpoint_steps = max(1, step - self.last_step)
        self.last_step, self._steps_taken = step, 0
        self.tap.gather(0 if self.recorder is None else self.recorder.sequences)
        windows = {} if self.recorder is None else self.recorder.last_layers()
        control = {d.layer_id: d for d in decisions}
        for layer in snapshot.layers:
            if any(layer.utilization_shares):
                aging.tick(self.registry, layer.layer_id)
        self.population.balance_twins()
        self._release_twins(step)
        self._settle(snapshot)
        readings, gains = self._ask_probe(step)
        signals = [
            self._signals(step, layer, windows.get(layer.layer_id), control, readings, gains)
            for layer in snapshot.layers
        ]
        self.policy, outcome = self.decide(self.policy, signals, self.config, self.warmup_steps)
        self.cycles += outcome.is_cycle
        self._agree_on_decisions(step, signals, outcome)
        done = [self._carry_out(v, step, windows) for v in outcome.executed()]
        for layer_id, expert_id in () if self.config.dry_run else outcome.treated:
            self.population.treat(layer_id, expert_id, step)
        self.population.keep_bundles({probation.seq for probation in self.policy.probations})
        self._agree_on_population(step)
        for decision in done:
            if decision.integrated_step is not None or decision.dry_run:
                self._record(decision)
        self.alerts = [
            f"SUSPECT: Layer {layer_id}: {expert_id} looks broken, for "
            f"{self.config.suspect_patience} checkpoints"
            for layer_id, expert_id in outcome.suspects
        ]
        self._write_evaluations(signals, outcome)
        self._write_transitions()
        self._name_dormant()
        self.tap.start_window()
        return done

    def _check_population(self, layer: LayerSnapshot) -> None:
        expected = len(self.registry.slots(layer.layer_id))
        if len(layer.utilization_shares) != expected:
            raise UserError(
                f"lifecycle: layer {layer.layer_id} of the snapshot has "
                f"{len(layer.utilization_shares)} experts, expected {expected}; take snapshots of "
                f"windows in which the population did not change"
            )

    def _settle(self, snapshot: SystemSnapshot) -> None:
        for layer in snapshot.layers:
            if any(layer.utilization_shares):
                aging.settle(
                    self.registry,
                    layer.layer_id,
                    layer.utilization_shares,
                    self.population.ramps,
                    snapshot.step,
                    self.config.cooling_period,
                )

    def _release_twins(self, step: int) -> None:
        ages = {child: self.registry[child].checkpoints_in_state for child in self.registry.twins}
        for record in self.population.release_due(step, ages):
            self.logs.transitions.write(record)

    def _ask_probe(self, step: int) -> tuple[dict[int, list[ProbationReading]], dict[str, float]]:
        """Return readings by layer for the edits that are due, and gains of leaving one out."""
        probe, surgeon = self.population.probe, self.population.surgeon
        due = [
            self.population.bundles[p.seq]
            for p in due_probations(self.policy, self.config)
            if p.seq in self.population.bundles
        ]
        suspects = self._suspects()
        if probe is None or not (due or suspects):
            return {}, {}
        loss = self.population.releases.take_loss()
        if loss is None:
            loss = probe(step)
        readings: dict[int, list[ProbationReading]] = {}
        for bundle in due:
            reading = judge_by_probe(surgeon, probe, step, loss, bundle, self.config.harm_tolerance)
            if reading is not None:
                readings.setdefault(bundle.layer_id, []).append(reading)
        gains = {}
        for layer_id, slot in suspects:
            without = leave_one_out(surgeon, probe, step, layer_id, slot)
            if without is not None:
                gains[self.registry.slots(layer_id)[slot]] = loss - without
        return readings, gains

    def _suspects(self) -> list[tuple[int, int]]:
        """Return (layer, slot) of the experts worth a trial without them: the gradients say so."""
        found = []
        for layer_id in self.registry.layers():
            contributions = self.tap.contributions(layer_id)
            if contributions:
                worst = max(contributions)
                if worst > self.config.suspect_loss_tolerance:
                    found.append((worst, layer_id, contributions.index(worst)))
        found.sort(reverse=True)
        return [(layer_id, slot) for _, layer_id, slot in found[:MOST_SUSPECTS]]

    def _signals(
        self,
        step: int,
        layer: LayerSnapshot,
        window: LayerWindow | None,
        control: Mapping[int, ControlDecision],
        readings: Mapping[int, list[ProbationReading]],
        gains: Mapping[str, float],
    ) -> LayerSignals:
        layer_id = layer.layer_id
        known = self.policy.layers.get(layer_id)
        x = LayerInput(
            step,
            self.policy.checkpoint + 1,
            layer,
            window,
            control.get(layer_id),
            self.reader.watches[layer_id].look(self.registry.slots(layer_id)),
            frozenset(self.population.ramps),
            frozenset() if known is None else frozenset(known.counters.overload),
            len(self.registry.pending(layer_id)),
            0.0 if self.recorder is None else self.recorder.tokens_per_step(),
            readings.get(layer_id, []),
            gains,
        )
        entries = self.reader.basins(x)
        for record, entry in zip(self.registry.live(layer_id), entries, strict=True):
            record.basin.append(entry)
        lines = basin_records(layer_id, self.registry.slots(layer_id), entries)
        self.logs.basins.write_all(lines)
        signals = self.reader.read(x)
        check_signals(signals)
        return signals

    def _carry_out(
        self, verdict: Verdict, step: int, windows: Mapping[int, LayerWindow]
    ) -> LifecycleDecision:
        c = verdict.candidate
        decision = make_decision(
            verdict, step, self.run_id, self.config, self.registry.slots(c.layer_id)
        )
        if self.config.dry_run:
            return decision
        ramp_steps = self.config.cooling_period * self._checkpoint_steps
        if c.action is Action.PRUNE:
            return self.population.prune(c, decision, ramp_steps)
        if c.action is Action.MERGE:
            return self.population.merge(c, decision, ramp_steps)
        if c.action is Action.ROLLBACK:
            return self.population.roll_back(c, decision)
        undecided = c.metrics.get("starved_by") == "undecided"
        starved_T = self.reader.starved(c.layer_id, windows.get(c.layer_id), undecided)
        self.population.stage(c, decision, ramp_steps, starved_T)
        return decision

    def _agree_on_decisions(
        self, step: int, signals: Sequence[LayerSignals], outcome: Outcome
    ) -> None:
        """Compare what every policy read, and what came of it, with the other processes."""
        self.processes.agree(
            f"policy inputs and decisions after step {step}",
            lambda: digest_plain([signals, [v.to_dict() for v in outcome.verdicts]]),
        )

    def _agree_on_population(self, step: int) -> None:
        """Compare who lives in which slot, with what weights and moments, and what is to come."""
        self.processes.agree(
            f"the expert population after step {step}", lambda: self.population.digest()
        )

    def _record(self, decision: LifecycleDecision) -> None:
        self.logs.decisions.write(decision.to_dict())
        seconds = self.population.seconds.pop(decision.seq, None)
        if seconds is not None:
            self.logs.timings.write(
                {"step": decision.step, "seq": decision.seq, "action": decision.action, **seconds}
            )
        self.decisions.append(decision)
        if not decision.dry_run:
            self.counts[decision.action] += 1

    def _name_dormant(self) -> None:
        if self.config.dry_run:
            return
        for layer_id in self.registry.layers():
            dormant = [
                record.expert_id
                for record in self.registry.live(layer_id)
                if record.state is ExpertState.dormant
            ]
            self.population.surgeon.guard.set_dormant(layer_id, dormant)

    # ---- logs and state ---------------------------------------------------------------------

    def _write_evaluations(self, signals: Sequence[LayerSignals], outcome: Outcome) -> None:
        for s in signals:
            layer = self.policy.layers[s.layer_id]
            verdicts = [v for v in outcome.verdicts if v.candidate.layer_id == s.layer_id]
            self.logs.evaluations.write(
                {
                    "step": s.step,
                    "checkpoint": outcome.checkpoint,
                    "layer_id": s.layer_id,
                    "cycle": outcome.is_cycle,
                    "candidates": [v.to_dict() for v in verdicts],
                    "judgements": [
                        j.to_dict()
                        for j in outcome.judgements
                        if j.probation.layer_id == s.layer_id
                    ],
                    "suspects": [name for i, name in outcome.suspects if i == s.layer_id],
                    "counters": layer.counters,
                    "patience_multipliers": layer.multipliers,
                    "signals": s,
                    # A replay names the line whose signals are not these any more.
                    "signals_crc32": zlib.crc32(msgspec.json.encode(s)),
                }
            )

    def _write_transitions(self) -> None:
        for transition in self.registry.take_transitions():
            self.logs.transitions.write(transition.to_dict())

    def write_waiting(self) -> None:
        """Log what was decided and not finished when a run ends: no decision goes unsaid.

        Such a line has no ``integrated_step``. It comes after the last checkpoint's: a run that is
        continued cuts it off again, and carries the decision out.
        """
        population = self.population
        decisions = [one.decision for one in population.leaving]
        for decision in (*decisions, *(one.decision for one in population.pending)):
            self.logs.decisions.write(decision.to_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal resume needs, as nested plain data with tensors."""
        return {
            "registry": self.registry.state_dict(),
            "policy": to_plain(self.policy),
            "population": self.population.state_dict(),
            "weights": self.reader.state_dict(),
            "tap": self.tap.state_dict(),
            "counts": dict(self.counts),
            "cycles": self.cycles,
            "decisions": [decision.to_dict() for decision in self.decisions],
            "last_step": self.last_step,
            "checkpoint_steps": self._checkpoint_steps,
            "steps_taken": self._steps_taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; the model must have been built with the population of the state."""
        self.registry.load_state_dict(state["registry"])
        self.policy = from_plain(PolicyState, state["policy"])
        self.tap.n_experts = [layer.num_experts for layer in self.layers]
        self.tap.load_state_dict(state["tap"])
        self.population.load_state_dict(state["population"])
        self.reader.load_state_dict(state["weights"])
        self.counts = Counter(from_plain(dict[str, int], state["counts"]))
        self.cycles = from_plain(int, state["cycles"])
        self.decisions = from_plain(list[LifecycleDecision], state["decisions"])
        self.last_step = from_plain(int, state["last_step"])
        self._steps_taken = from_plain(int, state["steps_taken"])
        self._checkpoint_steps = from_plain(int, state["checkpoint_steps"])


def _check_layers(layers: Sequence[Any]) -> None:
    for index, layer in enumerate(layers):
        missing = {ROUTER_ROWS, LOGIT_OFFSET} - set(layer.slot_tensors())
        if missing:
            raise UserError(
                f"lifecycle: slot_tensors() of layer {index} lacks {', '.join(sorted(missing))}, "
                f"expected router rows [E, D] and logit offsets [E] under these names; "
                f"see chronorun.model.population"
            )
