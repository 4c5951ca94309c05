"""The coordinator: at every evaluation checkpoint it looks, decides, and has the edits made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chronorun.config.governance import ControlConfig
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.core.processes import ALONE, Processes, digest_plain
from chronorun.core.state import from_plain, to_plain
from chronorun.errors import UserError
from chronorun.lifecycle.decide.actions import Verdict
from chronorun.lifecycle.decide.cycle import Outcome, advance
from chronorun.lifecycle.decide.plans import Decide
from chronorun.lifecycle.decide.policy_state import PolicyState
from chronorun.lifecycle.edit.archive import Archive
from chronorun.lifecycle.edit.population import Population
from chronorun.lifecycle.edit.receipts import ProbeLoss
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.observe.reader import SignalReader
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.lifecycle.observer import Observer, Seen
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.lifecycle.record.evaluations import evaluation_record
from chronorun.lifecycle.record.ledger import BIRTHS, Ledger
from chronorun.lifecycle.record.logs import LifecycleLogs
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS, PopulationModel
from chronorun.model.shapes import Routing

if TYPE_CHECKING:
    from chronorun.governance.controller import Controller
    from chronorun.governance.decisions import ControlDecision
    from chronorun.telemetry.recorder import RoutingRecorder
    from chronorun.telemetry.snapshots import SystemSnapshot


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
      made of it; RanksDisagreeError ends them all before a decision is logged;
    - ``steps_announced``: the training loop calls ``begin_step`` itself. Otherwise the model's
      training forwards let newborns in.
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
        steps_announced: bool = False,
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
        self.ledger = Ledger(self.registry, self.config)
        self.population = Population(
            self.ledger, surgeon, self.tap, archive, self.config, seed=seed, probe=probe
        )
        control = controller.config if controller is not None else ControlConfig()
        self.reader = SignalReader(
            self.layers, self.registry, self.tap, self.config, control, max_top_k
        )
        self.observer = Observer(self.population, self.reader, recorder, self.config)
        self.decide = decide
        self.policy = PolicyState()
        self.counts: Counter[str] = Counter()
        self.cycles = 0
        self.alerts: list[str] = []
        self.decisions: list[LifecycleDecision] = []
        self._steps_taken = 0
        self._step_hook: Any = None
        if isinstance(model, nn.Module) and not steps_announced:
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
        done = self.population.begin_step(step)
        if done:
            self._agree_on_population(step)
        for decision in done:
            self._record_decision(decision)
        self._record_transitions()
        self.population.set_ramps(step)
        return done

    def _before_forward(self, model: nn.Module, _inputs: Any) -> None:
        waits = self.ledger.pending or self.ledger.leaving or self.ledger.ramps
        if model.training and waits:
            self.begin_step(self.ledger.last_step + self._steps_taken)

    def _after_step(self, *_: Any) -> None:
        self._steps_taken += 1
        self.tap.end_step()

    # ---- at evaluation checkpoints ----------------------------------------------------------

    def evaluate(
        self, snapshot: SystemSnapshot, decisions: Sequence[ControlDecision]
    ) -> list[LifecycleDecision]:
        """Look at the population and act where it is time to.

        Returns what was decided. Births among it wait for the next training forward, and an expert
        that leaves may fade out first (``integrated_step`` is None until then); with ``dry_run``
        nothing is carried out at all. Raises UserError for a snapshot of another population.
        """
        # Look: all that a decision may rest on is read before anything is decided.
        seen = self.observer.look(snapshot, decisions, self.policy)
        self._steps_taken = 0
        # Decide: a pure function of what was seen and of the policy's state, so that logs suffice
        # to derive it again. All processes must come to the same before a tensor is touched.
        self.policy, outcome = self.decide(
            self.policy, seen.signals, self.config, self.warmup_steps
        )
        self._agree_on_decisions(seen, outcome)
        # Carry out: the ledger says who, the surgeon moves the tensors. What came of it is compared
        # before it is written down.
        done = self._carry_out(outcome, seen)
        self._agree_on_population(seen.step)
        # Record: last, so that a run that fails above leaves no line of what it did not do.
        self._record(seen, outcome, done)
        self.tap.start_window()
        return done

    def _carry_out(self, outcome: Outcome, seen: Seen) -> list[LifecycleDecision]:
        done = [self._do(verdict, seen) for verdict in outcome.executed()]
        if not self.config.dry_run:
            for layer_id, expert_id in outcome.treated:
                self.population.treat(layer_id, expert_id)
        self.ledger.keep_undo({probation.seq for probation in self.policy.probations})
        self._freeze_dormant()
        return done

    def _do(self, verdict: Verdict, seen: Seen) -> LifecycleDecision:
        c, slots = verdict.candidate, self.registry.slots(verdict.candidate.layer_id)
        decision = make_decision(verdict, seen.step, self.run_id, self.config, slots)
        if self.config.dry_run:
            return decision
        starved_T = None
        if c.action in BIRTHS:
            undecided = c.metrics.get("starved_by") == "undecided"
            starved_T = self.reader.starved(c.layer_id, seen.windows.get(c.layer_id), undecided)
        return self.population.carry_out(c, decision, self.ledger.ramp_steps, starved_T)

    def _freeze_dormant(self) -> None:
        """Let the optimizer pass over the experts that are dormant now."""
        if self.config.dry_run:
            return
        for layer_id in self.registry.layers():
            live = self.registry.live(layer_id)
            dormant = [one.expert_id for one in live if one.state is ExpertState.dormant]
            self.population.surgeon.guard.set_dormant(layer_id, dormant)

    def _agree_on_decisions(self, seen: Seen, outcome: Outcome) -> None:
        """Compare what every policy read, and what came of it, with the other processes."""
        self.processes.agree(
            f"policy inputs and decisions after step {seen.step}",
            lambda: digest_plain([seen.signals, [v.to_dict() for v in outcome.verdicts]]),
        )

    def _agree_on_population(self, step: int) -> None:
        """Compare who lives in which slot, with what weights and moments, and what is to come."""
        self.processes.agree(
            f"the expert population after step {step}", lambda: self.population.digest()
        )

    # ---- logs and state ---------------------------------------------------------------------

    def _record(self, seen: Seen, outcome: Outcome, done: Sequence[LifecycleDecision]) -> None:
        self.cycles += outcome.is_cycle
        self.alerts = [
            f"SUSPECT: Layer {layer_id}: {expert_id} looks broken, for "
            f"{self.config.suspect_patience} checkpoints"
            for layer_id, expert_id in outcome.suspects
        ]
        self.logs.basins.write_all(seen.basins)
        self.logs.transitions.write_all(seen.releases)
        for decision in done:
            if decision.integrated_step is not None or decision.dry_run:
                self._record_decision(decision)
        self.logs.evaluations.write_all(
            [evaluation_record(s, self.policy.layers[s.layer_id], outcome) for s in seen.signals]
        )
        self._record_transitions()

    def _record_decision(self, decision: LifecycleDecision) -> None:
        self.logs.decisions.write(decision.to_dict())
        seconds = self.population.seconds.pop(decision.seq, None)
        if seconds is not None:
            self.logs.timings.write(
                {"step": decision.step, "seq": decision.seq, "action": decision.action, **seconds}
            )
        self.decisions.append(decision)
        if not decision.dry_run:
            self.counts[decision.action] += 1

    def _record_transitions(self) -> None:
        self.logs.transitions.write_all([t.to_dict() for t in self.registry.take_transitions()])

    def write_waiting(self) -> None:
        """Log what was decided and not finished when a run ends: every decision has a line.

        Such a line has no ``integrated_step``. It comes after those of the last evaluation: a run
        that is continued cuts it off again, and carries the decision out.
        """
        for one in (*self.ledger.leaving, *self.ledger.pending):
            self.logs.decisions.write(one.decision.to_dict())

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
            "last_step": self.ledger.last_step,
            "checkpoint_steps": self.ledger.window_steps,
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
        self.ledger.last_step = from_plain(int, state["last_step"])
        self.ledger.window_steps = from_plain(int, state["checkpoint_steps"])
        self._steps_taken = from_plain(int, state["steps_taken"])


def _check_layers(layers: Sequence[Any]) -> None:
    for index, layer in enumerate(layers):
        missing = {ROUTER_ROWS, LOGIT_OFFSET} - set(layer.slot_tensors())
        if missing:
            raise UserError(
                f"lifecycle: slot_tensors() of layer {index} lacks {', '.join(sorted(missing))}, "
                f"expected router rows [E, D] and logit offsets [E] under these names; "
                f"see chronorun.model.population"
            )
