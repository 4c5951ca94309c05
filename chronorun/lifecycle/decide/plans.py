"""Edits that a plan decides instead of the policy: the controls of an honest comparison.

A plan stands where ``cycle.advance`` stands: the same state, signals and configuration in, the same
kind of outcome out, and as pure. What it decides goes through the same surgery. No counter moves
and nothing is judged, so no edit is rolled back but where a plan says so.

- *Yoked* (the term is of animal learning: a subject gets the rewards that another one earned):
  number, kind and time of the edits are those of another run; whom they hit is drawn uniformly
  among the experts that they could hit. It tells a well-aimed edit from an edit.
- *Sham* (of clinical trials): at those times one drawn expert gets the optimizer treatment that a
  newborn gets, and nothing else changes. It tells the edit from what goes with it.
- *Doubling*: every expert is split at one time, on a schedule that looks at nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from chronorun.config.lifecycle import LifecycleConfig, SpawnInit
from chronorun.lifecycle.decide.actions import GROWS, SHRINKS, Action, Candidate, Status, Verdict
from chronorun.lifecycle.decide.cycle import Outcome
from chronorun.lifecycle.decide.policy_state import LayerPolicy, PolicyState, Probation
from chronorun.lifecycle.decide.signals import ExpertSignals, LayerSignals
from chronorun.lifecycle.experts.states import ExpertState

Decide = Callable[
    [PolicyState, Sequence[LayerSignals], LifecycleConfig, int], tuple[PolicyState, Outcome]
]
"""What moves the policy on by one checkpoint: ``cycle.advance``, or a plan."""


PRUNABLE = (ExpertState.active, ExpertState.dormant)


@dataclass(frozen=True)
class PlannedEdit:
    """One edit of the run that is followed: decided at ``step``, its ``seq`` there."""

    step: int
    action: Action
    seq: int


def follow(edits: Sequence[PlannedEdit], seed: int, *, sham: bool = False) -> Decide:
    """Return what makes the edits of another run at its steps, on targets of its own.

    Targets are drawn from (seed, step, seq), uniformly among the eligible of all layers: an edit
    that nobody is eligible for is logged as blocked and not replaced. One edit per layer and
    checkpoint, as in the run that is followed.
    """
    by_step: dict[int, list[PlannedEdit]] = {}
    for edit in edits:
        by_step.setdefault(edit.step, []).append(edit)

    def decide(
        state: PolicyState, signals: Sequence[LayerSignals], config: LifecycleConfig, warmup: int
    ) -> tuple[PolicyState, Outcome]:
        due = by_step.get(signals[0].step, []) if signals else []
        turn = _Turn(_next(state, signals), signals, config)
        for edit in due:
            draw = random.Random(f"{seed}|{edit.step}|{edit.seq}")
            eligible = list(turn.treatable() if sham else turn.eligible(edit.action))
            turn.settle(edit, draw.choice(eligible) if eligible else None, sham=sham)
        return turn.state, turn.outcome(bool(due))

    return decide


def double(at_step: int) -> Decide:
    """Return what splits every expert at the first checkpoint from ``at_step`` on, and no more.

    The schedule takes no account of ``max_experts_per_layer``.
    """

    def decide(
        state: PolicyState, signals: Sequence[LayerSignals], config: LifecycleConfig, warmup: int
    ) -> tuple[PolicyState, Outcome]:
        turn = _Turn(_next(state, signals), signals, config)
        due = bool(signals) and signals[0].step >= at_step and state.next_seq == 0
        for s in signals if due else ():
            for place, expert in enumerate(s.groups):
                child = _later_id(s.next_expert_id, place)
                turn.execute(_split(s, expert.expert_id, child, "doubling"))
        return turn.state, turn.outcome(due)

    return decide


def _next(state: PolicyState, signals: Sequence[LayerSignals]) -> PolicyState:
    state = state.copy()
    state.checkpoint += 1
    for s in signals:
        state.layers.setdefault(s.layer_id, LayerPolicy())
    return state


def _later_id(next_id: str, by: int) -> str:
    """Return the id that a layer gives after ``by`` further births."""
    head, _, number = next_id.rpartition("E")
    return f"{head}E{int(number) + by}"


def _split(s: LayerSignals, parent_id: str, child_id: str, reason: str) -> Candidate:
    return Candidate(Action.SPLIT, s.layer_id, child_id, reason, 0, parent_id=parent_id)


def _merge(layer_id: int, older: ExpertSignals, other: ExpertSignals) -> Candidate:
    return Candidate(
        Action.MERGE,
        layer_id,
        older.expert_id,
        "yoked",
        0,
        partner_id=other.expert_id,
        metrics={"share": older.share, "partner_share": other.share},
    )


class _Turn:
    """One checkpoint of a plan: who is eligible, and what was decided so far."""

    def __init__(
        self, state: PolicyState, signals: Sequence[LayerSignals], config: LifecycleConfig
    ) -> None:
        self.state, self.signals, self.config = state, signals, config
        self.verdicts: list[Verdict] = []
        self.treated: list[tuple[int, str]] = []
        self.used: set[int] = set()
        # Kept as long as the policy would keep them: only what is kept can be undone.
        state.probations = [p for p in state.probations if p.due >= state.checkpoint]

    def eligible(self, action: Action) -> Iterator[Candidate]:
        """Yield one candidate for each expert, pair, archived expert or edit that may be hit."""
        for s in self.signals:
            if s.layer_id in self.used or not s.dispatched or s.pending_spawns:
                continue
            if action in GROWS and s.n_experts >= self.config.max_experts_per_layer:
                continue
            floor = max(self.config.min_experts_per_layer, s.max_top_k)
            if action in SHRINKS and len(s.groups) <= floor:
                continue
            yield from self._of_layer(action, s)

    def treatable(self) -> Iterator[Candidate]:
        """Yield one candidate for each expert whose optimizer state a sham may treat."""
        for s in self.signals:
            if s.layer_id not in self.used:
                for e in s.settled():
                    yield Candidate(Action.SPLIT, s.layer_id, e.expert_id, "sham", 0)

    def _of_layer(self, action: Action, s: LayerSignals) -> Iterator[Candidate]:
        if action is Action.SPLIT:
            for e in s.settled():
                yield _split(s, e.expert_id, s.next_expert_id, "yoked")
        elif action is Action.SPAWN:
            yield from self._spawns(s)
        elif action is Action.PRUNE:
            twins = s.twins()
            for e in s.groups:
                if e.expert_id not in twins and e.state in PRUNABLE:
                    yield Candidate(action, s.layer_id, e.expert_id, "yoked", 0)
        elif action is Action.MERGE:
            by_age = sorted(s.settled(), key=lambda e: e.born_step)
            yield from (_merge(s.layer_id, *pair) for pair in combinations(by_age, 2))
        elif action is Action.REVIVE:
            for match in s.archive_matches:
                yield Candidate(action, s.layer_id, match.expert_id, "yoked", 0)
        else:
            yield from self._rollbacks(s)

    def _spawns(self, s: LayerSignals) -> Iterator[Candidate]:
        cloned = self.config.spawn_init_strategy is SpawnInit.clone_and_perturb
        for e in s.settled():
            yield Candidate(
                Action.SPAWN,
                s.layer_id,
                s.next_expert_id,
                "yoked",
                0,
                parent_id=e.expert_id if cloned else None,
                cluster=(e.expert_id,),
            )

    def _rollbacks(self, s: LayerSignals) -> Iterator[Candidate]:
        for p in self.state.probations:
            # As the policy does: at the end of a probation, and not below top-k.
            over = p.due - self.config.lifecycle_eval_interval <= self.state.checkpoint
            enough = p.action in SHRINKS or len(s.groups) > s.max_top_k
            if p.layer_id == s.layer_id and over and enough:
                yield Candidate(Action.ROLLBACK, s.layer_id, p.experts[0], "yoked", 0, undoes=p.seq)

    def settle(self, edit: PlannedEdit, target: Candidate | None, *, sham: bool) -> None:
        """Note what becomes of one planned edit."""
        if target is None:
            layer_id = self.signals[0].layer_id
            nobody = Candidate(edit.action, layer_id, "", "yoked", 0)
            self.verdicts.append(Verdict(nobody, Status.blocked, "no expert is eligible"))
        elif sham:
            self.used.add(target.layer_id)
            self.treated.append((target.layer_id, target.expert_id))
            done = replace(target, action=edit.action)
            self.verdicts.append(Verdict(done, Status.sham, "its optimizer treatment alone"))
        else:
            self.execute(target)

    def execute(self, c: Candidate) -> None:
        """Decide an edit."""
        seq = self.state.next_seq
        self.state.next_seq += 1
        self.used.add(c.layer_id)
        self.state.probations = [p for p in self.state.probations if p.seq != c.undoes]
        self.state.note_edit(c.action, c.layer_id, self.signals[0].step)
        if c.action is not Action.ROLLBACK:
            # A later edit of the same experts ends the chance to undo this one.
            touched = {c.expert_id, *c.touches}
            self.state.probations = [
                p for p in self.state.probations if touched.isdisjoint(p.experts)
            ]
            self.state.probations.append(self._probation(seq, c, touched))
        self.verdicts.append(Verdict(c, Status.executed, seq=seq))

    def _probation(self, seq: int, c: Candidate, touched: set[str]) -> Probation:
        wait = max(self.config.probation_checkpoints, self.config.cooling_period + 1)
        due = self.state.checkpoint + wait + self.config.lifecycle_eval_interval
        return Probation(seq, c.action, c.layer_id, (c.expert_id, *sorted(touched)), due)

    def outcome(self, due: bool) -> Outcome:
        """Return what the checkpoint brought."""
        return Outcome(self.state.checkpoint, due, self.verdicts, treated=self.treated)
