"""What the logs say of one expert: its states, signals, decisions and proposals."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.analysis.reading.records import (
    Candidate,
    Decision,
    Evaluation,
    ExpertRow,
    Transition,
)
from chronorun.analysis.reading.run import Run
from chronorun.analysis.reading.series import Series
from chronorun.core.words import finite, shown
from chronorun.errors import UserError
from chronorun.lifecycle.record.telling import BIRTHS, NOT_CARRIED_OUT, natural

_MOST_STATES = 40
_MOST_SPELLS = 60
_MOST_NAMES = 10_000
_LENS = "lens attempt"
"""Prefix of the reason when a prune was deferred because the lens had just acted."""
DIGITS = re.compile(r"\d+")


@dataclass
class Held:
    """For how many evaluations a condition held: at most and now, and the patience in force."""

    longest: int = 0
    longest_step: int | None = None
    now: int = 0
    patience: int | None = None
    reached: bool = False

    def add(self, step: int, held: int, patience: int | None) -> None:
        """Add an evaluation; the patience in force may change when an edit did harm."""
        self.now, self.patience = held, patience
        if patience is not None and held >= patience:
            self.reached = True
        if held > self.longest:
            self.longest, self.longest_step = held, step


@dataclass
class Spell:
    """One proposal with the same verdict in several cycles in a row."""

    action: str
    status: str
    why: str
    first_step: int
    last_step: int
    held: int
    cycles: int = 1
    role: str = ""
    seq: int | None = None


@dataclass
class Nearest:
    """The other expert that came nearest to a merge."""

    partner_id: str
    cosine: float
    overlap: float
    step: int


@dataclass(frozen=True)
class Highest:
    """The largest share relative to the even share at that step, while it could be judged."""

    share: float
    even_share: float
    step: int

    @property
    def relative(self) -> float:
        """Return the multiple of the even share."""
        return self.share / self.even_share


@dataclass
class Story:
    """Everything the logs say of one expert."""

    expert_id: str
    layer_id: int | None = None
    born_step: int | None = None
    parent_id: str | None = None
    state: str | None = None
    states: list[Transition] = field(default_factory=list)
    last_states: deque[Transition] = field(default_factory=lambda: deque(maxlen=_MOST_STATES))
    changes: int = 0
    releases: list[Transition] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    share: Series = field(default_factory=Series)
    lowest_step: int | None = None
    highest: Highest | None = None
    judged: int = 0
    even_share: float | None = None
    dormancy: Held = field(default_factory=Held)
    overload: Held = field(default_factory=Held)
    convergence: Held = field(default_factory=Held)
    suspicion: Held = field(default_factory=Held)
    starvation: Held = field(default_factory=Held)
    lens_deferrals: int = 0
    nearest: Nearest | None = None
    leave_one_out_gain: float | None = None
    spells: list[Spell] = field(default_factory=list)
    spells_left_out: int = 0
    checkpoints: int = 0
    evaluated: bool = False
    last_step: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def add_decision(self, decision: Decision) -> None:
        """Add an action that may concern the expert."""
        d = decision
        named = (d.expert_id, d.parent_id, d.partner_id)
        undone = d.undoes is not None and any(d.undoes == known.seq for known in self.decisions)
        if self.expert_id not in named and not undone:
            return
        self._settle(d)
        if len(self.decisions) >= _MOST_STATES:
            return
        self.decisions.append(d)
        self.layer_id = d.layer_id if self.layer_id is None else self.layer_id
        done = not (d.dry_run or d.is_unfinished)
        if d.action in BIRTHS and d.expert_id == self.expert_id and done:
            self.parent_id = d.parent_id if self.parent_id is None else self.parent_id
            self.born_step = d.at if self.born_step is None else self.born_step

    def _settle(self, decision: Decision) -> None:
        """Write into an executed proposal that its decision was not carried out."""
        if not (decision.dry_run or decision.is_unfinished):
            return
        for spell in self.spells:
            if spell.seq is not None and (spell.seq, spell.action) == (
                decision.seq,
                decision.action,
            ):
                spell.status = "would be executed" if decision.dry_run else NOT_CARRIED_OUT

    def add_transition(self, transition: Transition) -> None:
        """Add a change of its state, or the release of a pair that it belongs to."""
        if transition.is_release:
            if len(self.releases) < _MOST_STATES:
                self.releases.append(transition)
            return
        self.changes += 1
        self.layer_id = transition.layer_id if self.layer_id is None else self.layer_id
        self.state = transition.after
        if transition.before is None and self.born_step is None:
            self.born_step = transition.step
        if len(self.states) < _MOST_STATES:
            self.states.append(transition)
        else:
            self.last_states.append(transition)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Add an evaluation of any layer."""
        e, me = evaluation, self.expert_id
        self.evaluated = True
        for c in e.candidates:
            self._add_candidate(e, c)
        row = next((x for x in e.signals.experts if x.expert_id == me), None)
        if row is None:
            return
        self.layer_id = e.layer_id if self.layer_id is None else self.layer_id
        self.last_step = e.step
        if not e.signals.dispatched:
            return
        self.checkpoints += 1
        self._add_signals(e, row)
        counters = e.counters
        for held, count, action, base in (
            (self.dormancy, counters.dormancy.get(me, 0), "PRUNE", "prune_patience"),
            (self.overload, counters.overload.get(me, 0), "SPLIT", "split_patience"),
            (self.convergence, self._pairs_held(counters.convergence), "MERGE", "merge_patience"),
            (self.suspicion, counters.suspicion.get(me, 0), "", "suspect_patience"),
            (self.starvation, counters.starvation, "SPAWN", "spawn_patience"),
        ):
            held.add(e.step, count, self._patience(base, e.patience_multipliers.get(action, 1)))

    def _patience(self, base: str, multiplier: int) -> int | None:
        patience = self.config.get(base)
        return patience * multiplier if isinstance(patience, int) else None

    def _pairs_held(self, convergence: Mapping[str, int]) -> int:
        held = (n for pair, n in convergence.items() if self.expert_id in pair.split("|"))
        return max(held, default=0)

    def _add_signals(self, e: Evaluation, row: ExpertRow) -> None:
        share = row.share
        if not self.share.count or share < self.share.low:
            self.lowest_step = e.step
        groups = sum(x.twin_of is None and x.state != "pending_prune" for x in e.signals.experts)
        self.even_share = 1 / max(1, groups)
        self.share.add(e.step, share)
        twins = row.twin_of is not None or any(
            x.twin_of == self.expert_id for x in e.signals.experts
        )
        if row.state == "active" and not row.ramping and not twins:
            self.judged += 1
            if self.highest is None or share / self.even_share > self.highest.relative:
                self.highest = Highest(share, self.even_share, e.step)
        if not self.changes:
            self.state = row.state or self.state
        self.born_step = row.born_step if self.born_step is None else self.born_step
        self.parent_id = row.parent_id if self.parent_id is None else self.parent_id
        gain = finite(row.leave_one_out_gain)
        if gain is not None and (self.leave_one_out_gain or -1e9) < gain:
            self.leave_one_out_gain = gain
        for pair in e.signals.pairs:
            if self.expert_id in (pair.first, pair.second):
                other = pair.second if pair.first == self.expert_id else pair.first
                found = Nearest(other[:200], pair.cosine, pair.overlap, e.step)
                if self.nearest is None or self._margin(found) > self._margin(self.nearest):
                    self.nearest = found

    def _margin(self, near: Nearest) -> float:
        """Return how far both thresholds of a merge are exceeded; below 0 where one is not."""
        cosine = finite(self.config.get("merge_similarity_threshold"))
        overlap = finite(self.config.get("merge_overlap_threshold"))
        if cosine is None or overlap is None:
            return near.cosine
        return min(near.cosine - cosine, near.overlap - overlap)

    def _add_candidate(self, e: Evaluation, c: Candidate) -> None:
        me = self.expert_id
        role = ""
        if c.action in ("SPLIT", "SPAWN"):
            if me == c.expert_id and me != c.parent_id:
                # Until it is carried out, a birth's id is only the next that is free.
                if c.status != "executed":
                    return
                role = f"born of {shown(c.parent_id or 'nothing', 40)}"
            elif me == c.parent_id:
                role = "as the parent"
            else:
                return
        elif c.action == "MERGE" and me in (c.expert_id, c.partner_id):
            other = c.partner_id if me == c.expert_id else c.expert_id
            role = f"with {shown(other or '?', 40)}"
        elif me != c.expert_id:
            return
        if c.action == "PRUNE" and c.status == "deferred" and c.why.startswith(_LENS):
            self.lens_deferrals += 1
        self._add_spell(Spell(c.action, c.status, c.why, e.step, e.step, c.held, 1, role, c.seq))

    def _add_spell(self, new: Spell) -> None:
        new.action, new.status, new.why = (x[:200] for x in (new.action, new.status, new.why))
        # One expert may be part of several proposals in a cycle: look a little further back. What
        # was decided has a line of its own, since the decision may never have been carried out.
        for last in self.spells[:-6:-1] if new.seq is None else ():
            same = (last.action, last.status, last.role) == (new.action, new.status, new.role)
            if same and DIGITS.sub("#", last.why) == DIGITS.sub("#", new.why):
                last.last_step, last.why, last.held = new.last_step, new.why, new.held
                last.cycles += 1
                return
        if len(self.spells) >= _MOST_SPELLS:
            self.spells_left_out += 1
            return
        self.spells.append(new)


def gather_story(run: Run, expert_id: str, config: Mapping[str, Any]) -> Story:
    """Read transitions and evaluations for one expert; its decisions are added later."""
    story = Story(expert_id, config=config)
    for transition in run.typed("expert_transitions", Transition):
        is_twin = transition.is_release and transition.parent_id == expert_id
        if transition.expert_id == expert_id or is_twin:
            story.add_transition(transition)
    for evaluation in run.typed("lifecycle_evaluations", Evaluation):
        story.add_evaluation(evaluation)
    return story


@dataclass
class Names:
    """Experts named in the logs, for the message that refuses another."""

    found: set[str] = field(default_factory=set)

    def add(self, *names: str | None) -> None:
        """Add names, as far as there is room."""
        if len(self.found) < _MOST_NAMES:
            self.found.update(name[:80] for name in names if name)


def refuse_unknown(story: Story, names: Names, where: object) -> None:
    """Raise UserError for an expert that no log names."""
    if story.decisions or story.changes or story.releases or story.checkpoints or story.spells:
        return
    known = sorted(names.found, key=natural)
    span = f"one of {known[0]} to {known[-1]}" if known else "one that its logs speak of"
    raise UserError(
        f"inspect: --why {story.expert_id} is in no log of {where}, expected {span}; name another"
    )
