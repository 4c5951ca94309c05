"""What a run would have decided under another configuration, as far as its logs can tell.

Until the first structural difference the answer is exact: the same experts saw the same tokens.
After it the population is another one, and what follows is a projection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay.config import (
    Deciding,
    changed_fields,
    deciding,
    load_config,
    overridden,
)
from chronorun.analysis.replay.control import find_priors, make_controller
from chronorun.analysis.replay.lines import Line, LineStream
from chronorun.analysis.replay.projection import OtherHistory
from chronorun.analysis.replay.signals import settled_debt
from chronorun.config.fields import marked
from chronorun.config.lifecycle import LifecycleConfig, TwoModeUse
from chronorun.errors import UserError
from chronorun.governance.decisions import ControlDecision
from chronorun.lifecycle.decide.actions import Candidate
from chronorun.lifecycle.decide.counters import is_undecided
from chronorun.lifecycle.decide.cycle import Outcome, advance
from chronorun.lifecycle.decide.policy_state import PolicyState, due_probations
from chronorun.lifecycle.decide.signals import LayerSignals
from chronorun.telemetry.snapshots import SystemSnapshot

EFFECTS = marked(LifecycleConfig, "shapes_edits")
"""Fields that change what an edit does or how it is measured: from the first edit on unknown."""


@dataclass(frozen=True)
class Made:
    """A decision to edit."""

    action: str
    layer_id: int
    expert_id: str
    parent_id: str | None
    partner_id: str | None
    key: str
    step: int


@dataclass(frozen=True)
class Change:
    """A decision that would have come ``earlier``, ``later``, in addition (``more``) or not at all
    (``fewer``)."""

    kind: str
    made: Made
    step: int | None
    would_be_step: int | None

    @property
    def first_step(self) -> int:
        """The first step that it speaks of."""
        return min(step for step in (self.step, self.would_be_step) if step is not None)


@dataclass
class WhatIf:
    """What overrides would have changed. Steps up to ``exact_until`` are exact; None: all are."""

    changed: dict[str, tuple[str, str]]
    exact_until: int | None = None
    why: str = ""
    logged: list[Made] = field(default_factory=list)
    derived: list[Made] = field(default_factory=list)
    control_decisions: int = 0
    control_differs: int = 0
    control_differs_from: int | None = None
    is_dry: bool = False

    def changes(self) -> list[Change]:
        """Return how the derived decisions differ from the logged ones, in order of steps."""
        found = [
            change
            for key in dict.fromkeys(m.key for m in (*self.logged, *self.derived))
            for change in _match(
                [m for m in self.logged if m.key == key], [m for m in self.derived if m.key == key]
            )
        ]
        return sorted(found, key=lambda change: change.first_step)

    def is_exact(self, change: Change) -> bool:
        """Return whether a change does not rest on a projection."""
        step = change.step if change.would_be_step is None else change.would_be_step
        return self.exact_until is None or (step is not None and step <= self.exact_until)


def _match(logged: Sequence[Made], derived: Sequence[Made]) -> Iterator[Change]:
    same = {m.step for m in logged} & {m.step for m in derived}
    before = [m for m in logged if m.step not in same]
    after = [m for m in derived if m.step not in same]
    for old, new in zip(before, after, strict=False):
        kind = "earlier" if new.step < old.step else "later"
        yield Change(kind, new, old.step, new.step)
    yield from (Change("fewer", m, m.step, None) for m in before[len(after) :])
    yield from (Change("more", m, None, m.step) for m in after[len(before) :])


def what_if(run: Run, overrides: Sequence[str]) -> WhatIf:
    """Return what a run would have decided. Raises UserError for wrong overrides."""
    config = load_config(run.folder)
    other = overridden(config, overrides)
    found = WhatIf(changed_fields(config, other), is_dry=config.lifecycle.dry_run)
    touches_lifecycle = any(name.startswith("lifecycle.") for name in found.changed)
    for section, enabled in (
        ("lifecycle", config.lifecycle.enabled or not touches_lifecycle),
        ("governance", config.governance.enabled or other.governance == config.governance),
    ):
        if not enabled:
            raise UserError(
                f"replay: {section} was off in this run, expected one that logged what it decides "
                f"by; train a run with {section}=default to see what it does"
            )
    _Projector(run, deciding(config), deciding(other), found).project()
    return found


class _Projector:
    """One pass: the run as it was, and beside it the run as it would have been."""

    def __init__(self, run: Run, base: Deciding, other: Deciding, found: WhatIf) -> None:
        self.base, self.config, self.found = base, other, found
        self.snapshots = LineStream(run, "snapshots")
        self.control = LineStream(run, "control_decisions")
        self.evaluations = LineStream(run, "lifecycle_evaluations")
        self.policy, self.other_policy = PolicyState(), PolicyState()
        self.history = OtherHistory()
        self.is_exact = True
        self.governs = base.governance != other.governance
        priors = find_priors(run, base.governance) or {}
        self.controller, self.lenses = make_controller(
            base.run_id, base.n_layers, base.n_experts, other.governance, priors
        )

    def project(self) -> None:
        """Fold both over all checkpoints."""
        while (line := self.snapshots.take()) is not None:
            snapshot = line.typed(SystemSnapshot)
            control = self._control(snapshot)
            lines = self._take(self.evaluations) if self.base.lifecycle.enabled else []
            if lines:
                self._lifecycle([x.typed(LayerSignals, "signals") for x in lines], control)
            elif self.base.lifecycle.enabled:
                return
            if self.found.control_differs_from == snapshot.step:
                self._ends(snapshot.step, "the lens would have steered otherwise")

    def _take(self, stream: LineStream) -> list[Line]:
        """Return a line for each layer; fewer at the end of a run that is being written."""
        lines = [stream.take() for _ in range(self.base.n_layers)]
        whole = [line for line in lines if line is not None]
        return whole if len(whole) == len(lines) else []

    def _ends(self, step: int, why: str) -> None:
        """Say that after a step nothing is exact any more."""
        if self.is_exact:
            self.is_exact, self.found.exact_until, self.found.why = False, step, why

    # ---- control ----------------------------------------------------------------------------

    def _control(self, snapshot: SystemSnapshot) -> list[ControlDecision]:
        if not self.governs:
            return []
        logged, derived = self._take(self.control), self.controller.update(snapshot, self.lenses)
        for line, decision in zip(logged, derived, strict=False):
            self.found.control_decisions += 1
            if line.record["actuator"]["lens_scale"] != decision.actuator["lens_scale"]:
                self.found.control_differs += 1
                if self.found.control_differs_from is None:
                    self.found.control_differs_from = snapshot.step
        return derived

    def _governed(self, s: LayerSignals, decision: ControlDecision) -> LayerSignals:
        """Return a layer's signals under the other controller."""
        return replace(
            s,
            topology_debt=decision.computed["debt"],
            lens_scale=decision.actuator["lens_scale"],
            unresolved_debt=settled_debt(s, [e.share for e in s.experts], self.config.control),
        )

    # ---- lifecycle --------------------------------------------------------------------------

    def _lifecycle(
        self, signals: Sequence[LayerSignals], control: Sequence[ControlDecision]
    ) -> None:
        step = signals[0].step
        others = list(signals)
        if control:
            others = [self._governed(s, d) for s, d in zip(signals, control, strict=True)]
        self._look_for_gaps(step, signals)
        if not self.is_exact:
            others = [self.history.adapt(s) for s in others]
        self.policy, was = advance(
            self.policy, signals, self.base.lifecycle, self.base.warmup_steps
        )
        self.other_policy, would_be = advance(
            self.other_policy, others, self.config.lifecycle, self.config.warmup_steps
        )
        if any(j.harmful and j.rollback is not None for j in would_be.judgements):
            self._look_at_judgements(step, was, would_be)
        self.found.logged += [_made(v.candidate, step) for v in was.executed()]
        self.found.derived += [_made(v.candidate, step) for v in would_be.executed()]
        self.history.see(signals)
        self.history.logged(was.executed())
        self.history.other(would_be.executed())
        if self.base.lifecycle.dry_run:
            # Whatever was decided, the population stayed as it was.
            return
        if _edits(was) != _edits(would_be):
            self._ends(step, "here other edits would have been made")
        elif was.executed() and (names := self._other_effects(was)):
            self._ends(step, f"{names} changes what these edits do")

    def _other_effects(self, was: Outcome) -> str:
        """Return the changed fields that make another thing of the edits of a cycle."""
        made = {str(v.candidate.action) for v in was.executed()}
        return ", ".join(
            name
            for name in EFFECTS
            if f"lifecycle.{name}" in self.found.changed and made & _touched(name, made)
        )

    def _look_for_gaps(self, step: int, signals: Sequence[LayerSignals]) -> None:
        """End exactness before a checkpoint at which something needed was not measured."""
        base, config = self.base.lifecycle, self.config.lifecycle
        before = step - 1
        if base.split_two_mode is TwoModeUse.off and config.split_two_mode is not TwoModeUse.off:
            self._ends(before, "two token populations were not measured for all experts")
        due = {p.seq for p in due_probations(self.policy, base)}
        if {p.seq for p in due_probations(self.other_policy, config)} != due:
            self._ends(before, "the probe was asked about edits at other checkpoints")
        for s in signals:
            if s.archive_matches and is_undecided(s, base) is not is_undecided(s, config):
                self._ends(before, "archived experts were compared with other tokens")

    def _look_at_judgements(self, step: int, was: Outcome, would_be: Outcome) -> None:
        """Whether going back would help was measured only where an edit did harm."""
        harmful = {j.probation.seq for j in was.judgements if j.harmful}
        if any(j.harmful and j.probation.seq not in harmful for j in would_be.judgements):
            self._ends(step - 1, "whether a rollback would help was not measured")


def _made(c: Candidate, step: int) -> Made:
    return Made(str(c.action), c.layer_id, c.expert_id, c.parent_id, c.partner_id, c.key, step)


def _touched(name: str, all_actions: set[str]) -> set[str]:
    """Return the actions whose edits a field shapes."""
    owner = {"merge": "MERGE", "merged": "MERGE", "split": "SPLIT", "parent": "SPLIT"}
    action = owner.get(name.partition("_")[0])
    return all_actions if action is None else {action}


def _edits(outcome: Outcome) -> dict[str, list[str | None]]:
    """Return the edits of a cycle, comparable: what is done to whom."""
    edits: dict[str, list[str | None]] = defaultdict(list)
    for c in (v.candidate for v in outcome.executed()):
        edits[c.key] += [c.expert_id, c.parent_id, c.partner_id]
    return edits
