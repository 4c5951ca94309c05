"""Derive every decision of a run again, from its logs and its configuration, and compare.

What enters a decision is in the logs: snapshots for the controller, signals for the lifecycle. Both
policies are pure, so that the same code gives the same decisions, to the last digit. Nothing here
imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from chronorun.analysis.reading.run import Run, open_log, sha256_log
from chronorun.analysis.replay.books import Books
from chronorun.analysis.replay.config import Deciding, check_manifest, deciding, load_config
from chronorun.analysis.replay.control import (
    ControlFields,
    find_priors,
    make_controller,
    without_norms,
)
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
from chronorun.core.run_files import LOGS, SUMMARY, log_file
from chronorun.lifecycle.decide.actions import Action, Verdict
from chronorun.lifecycle.decide.cycle import Outcome, advance
from chronorun.lifecycle.decide.policy_state import PolicyState, due_probations
from chronorun.lifecycle.decide.signals import LayerSignals
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.telemetry.alerts import AlertHistory
from chronorun.telemetry.snapshots import SystemSnapshot

MEASURED = ("receipt",)
"""Fields of a lifecycle decision that were measured, not decided."""
CARRIED_OUT = ("integrated", "revived", "removed")
"""Reasons of the transitions that end a wait."""


@dataclass
class Tally:
    """How many decisions of one kind were logged, and how many of them were derived again."""

    logged: int = 0
    reproduced: int = 0
    why_not: str | None = None


@dataclass
class Replay:
    """What a replay found. ``verdicts`` counts candidates with what became of them.

    ``waiting`` names decisions whose time had not come when the run ended; ``is_open`` says that
    the run is still being written.
    """

    run_id: str
    lifecycle: Tally = field(default_factory=Tally)
    control: Tally = field(default_factory=Tally)
    checkpoints: int = 0
    verdicts: int = 0
    waiting: list[str] = field(default_factory=list)
    is_open: bool = False
    difference: Difference | None = None
    changed_logs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_reproduced(self) -> bool:
        """Whether everything was derived and every log is as it was written."""
        kinds = (self.lifecycle, self.control)
        whole = all(k.reproduced == k.logged and k.why_not is None for k in kinds)
        return whole and self.difference is None and not self.changed_logs


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
    """One pass over all logs of a run, checkpoint by checkpoint."""

    def __init__(self, run: Run, config: Deciding, found: Replay) -> None:
        self.config, self.found = config, found
        self.snapshots = LineStream(run, "snapshots")
        self.control = LineStream(run, "control_decisions")
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
        self.books = Books(config.n_layers, config.n_experts, config.lifecycle)
        self.waiting: dict[int, LifecycleDecision] = {}
        self.controller, self.lenses = None, None
        priors = find_priors(run, config.governance) if config.governance.enabled else {}
        if priors is None:
            found.control.why_not = (
                f"the priors that the run started from are gone ({config.governance.priors_from})"
            )
        elif config.governance.enabled:
            self.controller, self.lenses = make_controller(
                config.run_id, config.n_layers, config.n_experts, config.governance, priors
            )

    # ---- one checkpoint after the other -----------------------------------------------------

    def replay(self) -> None:
        """Derive and compare everything. Raises Differs."""
        try:
            while (line := self.snapshots.take()) is not None:
                self._checkpoint(line)
                self.found.checkpoints += 1
            self._after_the_last_checkpoint()
            for stream in (
                self.control, self.evaluations, self.basins, self.transitions, self.decisions
            ):  # fmt: skip
                stream.expect_end()
        except Differs as differs:
            if not self._is_being_written(differs.difference):
                raise
            self.found.is_open = True

    def _is_being_written(self, difference: Difference) -> bool:
        """Say whether a run that is not over has only not written the newest lines yet."""
        at_the_end = self.snapshots.peek() is None
        return not self.is_over and at_the_end and difference.logged == MISSING

    def _checkpoint(self, line: Line) -> None:
        snapshot = line.typed(SystemSnapshot)
        step = snapshot.step
        check_layers(line, snapshot, self.config.n_layers)
        evaluations = self._take_evaluations(line)
        control = self._take_control(line, step)
        check_observed(line, snapshot, control)
        alerts = self.alerts.update(snapshot.layers)
        compare(line, "alerts", line.record.get("alerts"), alerts)
        self._control(snapshot, control)
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

    def _take_control(self, snapshot: Line, step: int) -> list[Line]:
        if not self.config.governance.enabled:
            return []
        lines = [
            self.control.expect(step, "a control decision", layer_id)
            for layer_id in range(self.config.n_layers)
        ]
        for line in lines:
            line.typed(ControlFields)
        told = {line.record["step"] for line in lines}
        if len(told) == 1 and step not in told and step % self.config.eval_interval:
            raise Differs(at(snapshot, "step", step, told.pop()))
        return lines

    # ---- control ----------------------------------------------------------------------------

    def _control(self, snapshot: SystemSnapshot, lines: Sequence[Line]) -> None:
        if self.controller is None:
            return
        derived = self.controller.update(snapshot, self.lenses)
        for line, decision in zip(lines, derived, strict=True):
            record = without_norms(decision.to_dict())
            logged = Line(line.file, line.number, without_norms(line.record), line.folder)
            check(logged, record)
            self.found.control.reproduced += 1

    # ---- lifecycle --------------------------------------------------------------------------

    def _lifecycle(
        self,
        snapshot_line: Line,
        snapshot: SystemSnapshot,
        evaluations: Sequence[Line],
        control: Sequence[Line],
    ) -> None:
        step, books = snapshot.step, self.books
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
        books.open_checkpoint(step, shares)
        self._release_twins(step)
        books.settle(step, shares)
        due = due_probations(self.policy, self.config.lifecycle)
        for x, s in zip(sources, signals, strict=True):
            remember_basins(x, books.registry.live(s.layer_id))
            check_derived(x, s, books, self.config.control)
            check_readings(x, s, due)
        self.policy, outcome = advance(
            self.policy, signals, self.config.lifecycle, self.config.warmup_steps
        )
        for line, s in zip(evaluations, signals, strict=True):
            self._check_evaluation(line, s, outcome)
        self.found.verdicts += len(outcome.verdicts)
        for verdict in outcome.executed():
            self._carry_out(verdict, step)
        books.keep_undo({p.seq for p in self.policy.probations})
        self._check_transitions(step)

    def _take_basin(self, step: int, layer_id: int) -> Line:
        line = self.basins.expect(step, "a basin", layer_id)
        line.typed(BasinFields)
        return line

    def _check_population(self, line: Line, snapshot: SystemSnapshot) -> None:
        for place, layer in enumerate(snapshot.layers):
            slots = self.books.registry.slots(layer.layer_id)
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
        c, books = verdict.candidate, self.books
        slots = books.registry.slots(c.layer_id)
        decision = make_decision(verdict, step, self.config.run_id, self.config.lifecycle, slots)
        done = books.carry_out(c, decision, fades=self._fades(decision))
        if done is not None:
            self._check_decision(done)

    def _fades(self, decision: LifecycleDecision) -> bool:
        """Say whether who leaves fades out first: the probe told, and the next line tells."""
        leaves = decision.action in (Action.PRUNE, Action.MERGE)
        if not leaves or self.config.lifecycle.dry_run:
            return False
        ahead = self.decisions.peek()
        record = {} if ahead is None else ahead.record
        names = ("seq", "step", "action", "expert_id")
        # One of them may have been tampered with.
        is_own = sum(record.get(name) == getattr(decision, name) for name in names) >= 3
        integrated = record.get("integrated_step")
        return not is_own or integrated in (None, self.books.fades_until(decision.step))

    def _check_decision(self, derived: LifecycleDecision) -> None:
        line = self.decisions.expect(derived.step, "a decision", derived.layer_id)
        check(line, derived.to_dict(), MEASURED)
        self.found.lifecycle.reproduced += 1

    # ---- between checkpoints ----------------------------------------------------------------

    def _pass_steps(self, end: int | None) -> None:
        """Carry out what was due before the training step ``end`` (None: whatever is logged)."""
        while True:
            planted = self._planted_step(end)
            steps = [*self.books.due_steps(end), *([] if planted is None else [planted])]
            # Of what was due after the last line of a run nothing was done.
            if not steps or (end is None and planted is None and self._ends_here()):
                break
            if planted == min(steps):
                self._plant()
                continue
            for decision in self.books.begin_step(min(steps)):
                self._check_decision(decision)
        self._check_transitions(self.books.last_step)

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
            if not self.books.is_live(name):
                raise Differs(at(line, "expert_id, partner_id", name, "a live expert"))
        self.books.plant(plant.expert_id, plant.partner_id, plant.step)

    def _ends_here(self) -> bool:
        """Say whether the logs tell of no more births or removals."""
        ahead = self.transitions.peek()
        more = ahead is not None and ahead.record.get("reason") in CARRIED_OUT
        line = self.decisions.peek()
        unfinished = line is None or line.record.get("integrated_step") is None
        return unfinished and not more

    def _after_the_last_checkpoint(self) -> None:
        if self.config.lifecycle.enabled:
            self._pass_steps(None)
        waiting = [one.decision for one in (*self.books.leaving, *self.books.pending)]
        self.found.waiting = [
            f"{d.action} {d.expert_id} (decided at step {d.step})" for d in waiting
        ]
        for decision in waiting:
            if self.is_completed or self.decisions.peek() is not None:
                self._check_decision(decision)

    def _check_transitions(self, step: int) -> None:
        for transition in self.books.registry.take_transitions():
            line = self.transitions.expect(step, "a transition", transition.layer_id)
            check(line, transition.to_dict())

    def _release_twins(self, step: int) -> None:
        """Release the twins that the log says were released; when they may be, they must be."""
        registry, config = self.books.registry, self.config.lifecycle
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
