"""Derive every decision of a run again, from its logs and its configuration, and compare.

What enters a decision is in the logs: snapshots for the controller, signals for the lifecycle. Both
policies are pure, so that the same code gives the same decisions, to the last digit. Nothing here
imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from chronorun.analysis.reading.run import Run, open_log, sha256_log
from chronorun.analysis.replay.config import Deciding, check_manifest, deciding, load_config
from chronorun.analysis.replay.control import ControlReplay
from chronorun.analysis.replay.lines import (
    MISSING,
    Difference,
    Differs,
    Line,
    LineStream,
    at,
    check,
    compare,
)
from chronorun.analysis.replay.result import Replay
from chronorun.analysis.replay.signals import (
    BasinFields,
    Sources,
    agree,
    check_basins,
    check_copies,
    check_derived,
    check_readings,
    check_seal,
    remember_basins,
)
from chronorun.analysis.replay.snapshots import check_layers, check_observed
from chronorun.config.lifecycle import SplitRelease
from chronorun.core.run_files import LOGS, SUMMARY, log_file
from chronorun.lifecycle.decide.actions import Action, Verdict
from chronorun.lifecycle.decide.cycle import Outcome, advance
from chronorun.lifecycle.decide.policy_state import PolicyState, due_probations
from chronorun.lifecycle.decide.signals import LayerSignals
from chronorun.lifecycle.experts.ramps import Ramp
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.lifecycle.record.ledger import BIRTHS, Ledger
from chronorun.telemetry.alerts import AlertHistory
from chronorun.telemetry.snapshots import SystemSnapshot

MEASURED = ("receipt",)
"""Fields of a lifecycle decision that were measured, not decided."""
CARRIED_OUT = ("integrated", "revived", "removed")
"""Reasons of the transitions that end a wait."""


def replay_run(run: Run) -> Replay:
    """Derive a run's decisions again, up to the first difference. Raises UserError."""
    config = deciding(load_config(run.folder))
    found = Replay(config.run_id)
    try:
        check_manifest(run)
        _Replayer(run, config, found).replay()
    except Differs as differs:
        found.difference = differs.difference
    for kind, log in (
        (found.lifecycle, "lifecycle_decisions"),
        (found.control, "control_decisions"),
    ):
        # Of a run that is being written the newest lines are left for later.
        kind.logged = kind.reproduced if found.is_open else _count_lines(run, log)
    found.changed_logs = changed_logs(run, found.notes)
    found.notes += run.notices.lines
    return found


def _count_lines(run: Run, log: str) -> int:
    path = run.path(log)
    if not path.is_file():
        return 0
    with open_log(path) as file:
        return sum(line.endswith(b"\n") for line in file)


def changed_logs(run: Run, notes: list[str]) -> list[str]:
    """Return the files that are not what ``summary.json`` says of them."""
    hashes = run.json(SUMMARY).get("logs")
    if not isinstance(hashes, dict):
        notes.append("summary.json has no hashes (the run is not over): logs not checked by hash")
        return []
    names = {log_file(log) for log in LOGS}
    changed = [
        name
        for name in sorted(names)
        if (run.folder / name).is_file() is not (name in hashes)
        or (name in hashes and sha256_log(run.folder / name) != hashes[name])
    ]
    return changed


class PlantFields(msgspec.Struct):
    """What the log of a scenario says of two experts that it made one."""

    step: int
    expert_id: str
    partner_id: str


class _Replayer:
    """One pass over all logs of a run, evaluation by evaluation."""

    def __init__(self, run: Run, config: Deciding, found: Replay) -> None:
        self.config, self.found = config, found
        self.snapshots = LineStream(run, "snapshots")
        self.control = ControlReplay(run, config, found.control)
        self.evaluations = LineStream(run, "lifecycle_evaluations")
        self.basins = LineStream(run, "basins")
        self.transitions = LineStream(run, "expert_transitions")
        self.decisions = LineStream(run, "lifecycle_decisions")
        self.scenario = LineStream(run, "scenario_events")
        summary = run.json(SUMMARY)
        self.is_over = bool(summary.get("logs"))
        # Its end wrote a line for every decision that was still waiting.
        self.is_completed = summary.get("status") == "completed"
        self.alerts = AlertHistory()
        self.policy = PolicyState()
        registry = Registry(
            [config.n_experts] * config.n_layers, config.lifecycle.basin_window_size
        )
        self.ledger = Ledger(registry, config.lifecycle)

    # ---- one evaluation after the other -----------------------------------------------------

    def replay(self) -> None:
        """Derive and compare everything. Raises Differs."""
        try:
            while (line := self.snapshots.take()) is not None:
                self._checkpoint(line)
                self.found.checkpoints += 1
            self._after_the_last_checkpoint()
            for stream in (
                self.control.lines, self.evaluations, self.basins, self.transitions, self.decisions
            ):  # fmt: skip
                stream.expect_end()
        except Differs as differs:
            if not self._is_being_written(differs.difference):
                raise
            self.found.is_open = True

    def _is_being_written(self, difference: Difference) -> bool:
        """Return whether a run that is not over has only not written the newest lines yet."""
        at_the_end = self.snapshots.peek() is None
        return not self.is_over and at_the_end and difference.logged == MISSING

    def _checkpoint(self, line: Line) -> None:
        snapshot = line.typed(SystemSnapshot)
        step = snapshot.step
        check_layers(line, snapshot, self.config.n_layers)
        evaluations = self._take_evaluations(line)
        control = self.control.take(line, step)
        check_observed(line, snapshot, control)
        alerts = self.alerts.update(snapshot.layers)
        compare(line, "alerts", line.record.get("alerts"), alerts)
        self.control.check(snapshot, control)
        if self.config.lifecycle.enabled:
            self._lifecycle(line, snapshot, evaluations, control)

    def _take_evaluations(self, snapshot: Line) -> list[Line]:
        """Return the checkpoint's evaluations, their seals intact, their steps the snapshot's."""
        if not self.config.lifecycle.enabled:
            return []
        step = snapshot.record["step"]
        lines = [
            self.evaluations.expect(step, "an evaluation", layer_id)
            for layer_id in range(self.config.n_layers)
        ]
        for place, line in enumerate(lines):
            check_seal(line)
            s = line.typed(LayerSignals, "signals")
            agree(Sources(line, snapshot, place, [], None), "step", s.step, snapshot, "step", step)
        return lines

    # ---- lifecycle --------------------------------------------------------------------------

    def _lifecycle(
        self,
        snapshot_line: Line,
        snapshot: SystemSnapshot,
        evaluations: Sequence[Line],
        control: Sequence[Line],
    ) -> None:
        step, ledger = snapshot.step, self.ledger
        shares = {layer.layer_id: layer.utilization_shares for layer in snapshot.layers}
        signals = [line.typed(LayerSignals, "signals") for line in evaluations]
        sources = [
            Sources(
                line,
                snapshot_line,
                place,
                [self._take_basin(step, s.layer_id) for _ in s.experts],
                control[place] if control else None,
            )
            for place, (line, s) in enumerate(zip(evaluations, signals, strict=True))
        ]
        for x, s in zip(sources, signals, strict=True):
            check_copies(x, s)
            check_basins(x, s)
        self._pass_steps(step)
        self._check_population(snapshot_line, snapshot)
        # The last training step before this one was the newest to move a ramp.
        ledger.end_ramps(step - 1)
        ledger.open_evaluation(step, shares)
        self._release_twins(step)
        ledger.settle(shares)
        due = due_probations(self.policy, self.config.lifecycle)
        for x, s in zip(sources, signals, strict=True):
            remember_basins(x, ledger.registry.live(s.layer_id))
            check_derived(x, s, ledger, self.config.control)
            check_readings(x, s, due)
        self.policy, outcome = advance(
            self.policy, signals, self.config.lifecycle, self.config.warmup_steps
        )
        for line, s in zip(evaluations, signals, strict=True):
            self._check_evaluation(line, s, outcome)
        self.found.verdicts += len(outcome.verdicts)
        for verdict in outcome.executed():
            self._carry_out(verdict, step)
        ledger.keep_undo({p.seq for p in self.policy.probations})
        self._check_transitions(step)

    def _take_basin(self, step: int, layer_id: int) -> Line:
        line = self.basins.expect(step, "a basin", layer_id)
        line.typed(BasinFields)
        return line

    def _check_population(self, line: Line, snapshot: SystemSnapshot) -> None:
        for place, layer in enumerate(snapshot.layers):
            slots = self.ledger.registry.slots(layer.layer_id)
            compare(line, f"layers[{place}].expert_ids", layer.expert_ids, slots)

    def _check_evaluation(self, line: Line, s: LayerSignals, outcome: Outcome) -> None:
        """Hold verdicts, judgements and counters of a layer against those derived."""
        layer = self.policy.layers[s.layer_id]
        derived: Mapping[str, Any] = {
            "step": s.step,
            "checkpoint": outcome.checkpoint,
            "layer_id": s.layer_id,
            "cycle": outcome.is_cycle,
            "counters": layer.counters,
            "patience_multipliers": layer.multipliers,
            "suspects": [name for i, name in outcome.suspects if i == s.layer_id],
            "judgements": [
                j.to_dict() for j in outcome.judgements if j.probation.layer_id == s.layer_id
            ],
            "candidates": [
                v.to_dict() for v in outcome.verdicts if v.candidate.layer_id == s.layer_id
            ],
        }
        compare(line, "signals.checkpoint", s.checkpoint, outcome.checkpoint)
        check(line, derived)

    def _carry_out(self, verdict: Verdict, step: int) -> None:
        c, config, ledger = verdict.candidate, self.config.lifecycle, self.ledger
        slots = ledger.registry.slots(c.layer_id)
        decision = make_decision(verdict, step, self.config.run_id, config, slots)
        done: LifecycleDecision | None = None
        if config.dry_run:
            done = decision
        elif c.action in BIRTHS:
            # Twins of a split are exclusive at first, unless they are released at once.
            exclusive = config.split_release is not SplitRelease.at_once
            is_pair = c.action is Action.SPLIT and exclusive
            ledger.stage(c, decision, is_pair=is_pair, ramp_steps=ledger.ramp_steps)
        elif c.action is Action.ROLLBACK:
            done = ledger.roll_back(c, decision)
        else:
            ramp = Ramp(step, ledger.ramp_steps) if self._fades(decision) else None
            done = ledger.leave(c, decision, ramp=ramp)
        if done is not None:
            self._check_decision(done)

    def _fades(self, decision: LifecycleDecision) -> bool:
        """Return whether an expert fades out first: the probe decided, and the next line shows."""
        ahead = self.decisions.peek()
        record = {} if ahead is None else ahead.record
        names = ("seq", "step", "action", "expert_id")
        # One of them may have been tampered with.
        is_own = sum(record.get(name) == getattr(decision, name) for name in names) >= 3
        until = decision.step + self.ledger.ramp_steps
        return not is_own or record.get("integrated_step") in (None, until)

    def _check_decision(self, derived: LifecycleDecision) -> None:
        line = self.decisions.expect(derived.step, "a decision", derived.layer_id)
        check(line, derived.to_dict(), MEASURED)
        self.found.lifecycle.reproduced += 1

    # ---- between evaluations ----------------------------------------------------------------

    def _pass_steps(self, end: int | None) -> None:
        """Carry out what was due before the training step ``end`` (None: whatever is logged)."""
        while True:
            planted = self._planted_step(end)
            steps = [*self.ledger.due_steps(end), *([] if planted is None else [planted])]
            # Of what was due after the last line of a run nothing was done.
            if not steps or (end is None and planted is None and self._ends_here()):
                break
            if planted == min(steps):
                self._plant()
                continue
            for one in self.ledger.take_due(step := min(steps)):
                self._check_decision(self.ledger.finish(one, step))
        self._check_transitions(self.ledger.last_step)

    def _planted_step(self, end: int | None) -> int | None:
        """Return the step of the next expert that a scenario took away before ``end``, if any."""
        while (line := self.scenario.peek()) is not None:
            if line.record.get("event") == "planted" and self.config.plants_removals:
                step = line.typed(PlantFields).step
                return step if end is None or step < end else None
            self.scenario.take()
        return None

    def _plant(self) -> None:
        line = self.scenario.take()
        assert line is not None
        plant = line.typed(PlantFields)
        for name in (plant.expert_id, plant.partner_id):
            if not self.ledger.registry.is_live(name):
                raise Differs(at(line, "expert_id, partner_id", name, "a live expert"))
        self.ledger.plant(plant.expert_id, plant.partner_id, plant.step)

    def _ends_here(self) -> bool:
        """Return whether the logs tell of no more births or removals."""
        ahead = self.transitions.peek()
        more = ahead is not None and ahead.record.get("reason") in CARRIED_OUT
        line = self.decisions.peek()
        unfinished = line is None or line.record.get("integrated_step") is None
        return unfinished and not more

    def _after_the_last_checkpoint(self) -> None:
        if self.config.lifecycle.enabled:
            self._pass_steps(None)
        waiting = [one.decision for one in (*self.ledger.leaving, *self.ledger.pending)]
        self.found.waiting = [
            f"{d.action} {d.expert_id} (decided at step {d.step})" for d in waiting
        ]
        for decision in waiting:
            if self.is_completed or self.decisions.peek() is not None:
                self._check_decision(decision)

    def _check_transitions(self, step: int) -> None:
        for transition in self.ledger.registry.take_transitions():
            line = self.transitions.expect(step, "a transition", transition.layer_id)
            check(line, transition.to_dict())

    def _release_twins(self, step: int) -> None:
        """Release the twins that the log says were released; when they may be, they must be."""
        registry, config = self.ledger.registry, self.config.lifecycle
        for child, parent in list(registry.twins.items()):
            age = registry[child].checkpoints_in_state
            ahead = self.transitions.peek()
            told = ahead is not None and (
                ahead.record.get("event"),
                ahead.record.get("expert_id"),
                ahead.record.get("step"),
            ) == ("released", child, step)
            if not told:
                self._check_may_wait(age, child, step)
                continue
            line = self.transitions.take()
            assert line is not None
            layer_id = registry[child].layer_id
            check(line, {"layer_id": layer_id, "parent_id": parent})
            if age < config.cooling_period:
                raise Differs(at(line, "event", "released", f"cooling, {age} checkpoints old"))
            registry.release(child)

    def _check_may_wait(self, age: int, child: str, step: int) -> None:
        config = self.config.lifecycle
        if age >= config.cooling_period and age >= config.split_release_limit:
            self.transitions.fail(
                self.transitions.number + 1, "event", MISSING, f"release of {child}", step
            )
