"""The story of one expert: its states, its signals, what was proposed of it, and why or why not."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.analysis.inspect.sparkline import Series
from chronorun.analysis.inspect.timeline import evidence
from chronorun.analysis.reading.fields import scalars
from chronorun.analysis.reading.records import (
    Candidate,
    Decision,
    Evaluation,
    ExpertRow,
    Transition,
)
from chronorun.analysis.reading.run import Run
from chronorun.core.words import finite, shown
from chronorun.errors import UserError
from chronorun.lifecycle.record.telling import BIRTHS, NOT_CARRIED_OUT, PAST_TENSE, natural

_MOST_STATES = 40
_MOST_SPELLS = 60
_MOST_NAMES = 10_000
_LENS = "lens attempt"
"""How the reason of a prune begins that an attempt of the lens put off."""
_DIGITS = re.compile(r"\d+")


@dataclass
class Held:
    """How long a condition lasted, in checkpoints: at most, now, and beside which patience."""

    longest: int = 0
    longest_step: int | None = None
    now: int = 0
    patience: int | None = None
    reached: bool = False

    def add(self, step: int, held: int, patience: int | None) -> None:
        """Add a checkpoint; the patience in force may change when an edit did harm."""
        self.now, self.patience = held, patience
        if patience is not None and held >= patience:
            self.reached = True
        if held > self.longest:
            self.longest, self.longest_step = held, step


@dataclass
class Spell:
    """The same verdict on the same proposal, one cycle after another."""

    action: str
    status: str
    why: str
    first_step: int
    last_step: int
    held: int
    cycles: int = 1
    role: str = ""
    seq: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the spell for programs."""
        return {name: value for name, value in vars(self).items() if name != "seq"}


@dataclass
class Nearest:
    """The other expert that came nearest to a merge, and how near."""

    partner_id: str
    cosine: float
    overlap: float
    step: int


@dataclass(frozen=True)
class Highest:
    """The largest share, relative to the even share of then, while the expert could be judged."""

    share: float
    even_share: float
    step: int

    @property
    def relative(self) -> float:
        """Return the multiple of the even share."""
        return self.share / self.even_share


@dataclass
class Story:
    """Everything known of one expert, gathered in one pass over each log."""

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

    # ---- gathering --------------------------------------------------------------------------

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
        """Say of a verdict to act what became of it."""
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
        """Add a checkpoint of any layer."""
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
            if same and _DIGITS.sub("#", last.why) == _DIGITS.sub("#", new.why):
                last.last_step, last.why, last.held = new.last_step, new.why, new.held
                last.cycles += 1
                return
        if len(self.spells) >= _MOST_SPELLS:
            self.spells_left_out += 1
            return
        self.spells.append(new)

    # ---- answers ----------------------------------------------------------------------------

    def answers(self) -> list[tuple[str, bool, str]]:
        """Return (action, whether it happened, why or why not) for prune, split and merge."""
        return [self._answer(action) for action in ("PRUNE", "SPLIT", "MERGE")]

    def _answer(self, action: str) -> tuple[str, bool, str]:
        done = PAST_TENSE[action]
        mine = [d for d in self.decisions if d.action == action]
        mine = [d for d in mine if action != "SPLIT" or d.parent_id == self.expert_id]
        if not mine:
            return action, False, f"was not {done}: {self._why_not(action)}"
        # What was done says more than what a run's end left undone.
        d = max(reversed(mine), key=lambda d: not d.is_unfinished)
        why = evidence(d) or shown(d.reason, 80)
        would = "would have been" if d.dry_run else "was"
        text = f"{would} {done} at step {d.at}: {why}"
        if d.is_unfinished:
            text = f"was to be {done} (decided at step {d.at}, {NOT_CARRIED_OUT}): {why}"
        text += self._putting_off(action) + self._afterwards(d)
        return action, not (d.dry_run or d.is_unfinished), text

    def _putting_off(self, action: str) -> str:
        told = self._refusals(action)
        return f"; before that it was proposed and refused: {told}" if told else ""

    def _afterwards(self, done: Decision) -> str:
        told = ""
        for d in self.decisions[self.decisions.index(done) + 1 :]:
            if d.is_unfinished:
                continue
            if done.seq is not None and d.undoes == done.seq:
                told += f"; that was rolled back at step {d.at}"
            elif d.action == "REVIVE" and d.expert_id == self.expert_id:
                told += f"; it was revived at step {d.at}"
        return told

    def _refusals(self, action: str) -> str:
        reasons: dict[str, tuple[str, int]] = {}
        for spell in self.spells:
            if (
                spell.action == action
                and spell.seq is None
                and spell.status != "executed"
                and not (action == "SPLIT" and spell.role.startswith("born"))
            ):
                key = _DIGITS.sub("#", spell.why)
                reasons[key] = (spell.why, reasons.get(key, ("", 0))[1] + spell.cycles)
        parts = [f"{shown(why, 100)} ({cycles}x)" for why, cycles in list(reasons.values())[:4]]
        return "; ".join(parts)

    def _why_not(self, action: str) -> str:
        if self.config.get("enabled") is False:
            return "the lifecycle is off (lifecycle.enabled=false)"
        if self.config.get(f"{action.lower()}_enabled") is False:
            return f"that is off (lifecycle.{action.lower()}_enabled=false)"
        if not self.evaluated:
            return "the reason is not recorded here (no lifecycle_evaluations.jsonl)"
        if not self.checkpoints:
            return "it was at no checkpoint"
        held = {"PRUNE": self.dormancy, "SPLIT": self.overload, "MERGE": self.convergence}[action]
        refusals = self._refusals(action)
        if refusals:
            return (
                f"its condition held for up to {held.longest} checkpoints (patience "
                f"{_or_unknown(held.patience)}), so it was proposed, and refused: {refusals}"
            )
        return f"{self._condition(action)}; {_lasted(held)}"

    def _condition(self, action: str) -> str:
        if action == "PRUNE":
            if not self.dormancy.longest and self.share.low == 0.0:
                return "it was without tokens only while it was new, which does not count"
            if not self.dormancy.longest:
                return (
                    f"it got tokens at every checkpoint (lowest share {self.share.low:.4f}"
                    f"{_at(self.lowest_step)})"
                )
            return "it was without tokens only for a while"
        if action == "SPLIT":
            if self.highest is None:
                return "it was at no checkpoint active, at full strength and no twin"
            limits = self.split_limits(self.highest.even_share)
            above = f", overloaded above {limits}" if limits else ""
            return f"its share was at most {self.highest.share:.4f}{_at(self.highest.step)}{above}"
        if self.nearest is None:
            return "no other expert was compared with it"
        n = self.nearest
        return (
            f"nearest was {shown(n.partner_id, 40)} at step {n.step}: cosine {n.cosine:.3f} "
            f"(above {_or_unknown(self.config.get('merge_similarity_threshold'))} needed), "
            f"overlap {n.overlap:.3f} "
            f"(above {_or_unknown(self.config.get('merge_overlap_threshold'))} needed)"
        )

    def split_limits(self, even_share: float | None) -> str:
        """Return the shares above which the expert counts as overloaded beside an even share."""
        threshold = finite(self.config.get("split_share_threshold"))
        ratio = finite(self.config.get("split_share_ratio"))
        parts = [] if threshold is None else [f"{threshold:g}"]
        if ratio is not None and even_share is not None:
            parts.append(f"{ratio * even_share:.4f} ({ratio:g} times the even share of then)")
        return " or ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the story for programs: see ``inspect.schema.json``."""
        return {
            "expert_id": self.expert_id,
            "layer_id": self.layer_id,
            "born_step": self.born_step,
            "parent_id": self.parent_id,
            "state": None if self.state is None else self.state[:200],
            "checkpoints": self.checkpoints,
            "states": [
                {"step": t.step, "from": t.before, "to": t.after, "reason": t.reason}
                for t in [*self.states, *self.last_states]
            ],
            "releases": [
                {
                    "step": t.step,
                    "expert_id": t.expert_id[:200],
                    "parent_id": None if t.parent_id is None else t.parent_id[:200],
                    "probe_shock": finite(scalars(t.receipt).get("probe_shock")),
                    "output_change": finite(scalars(t.receipt).get("output_change")),
                }
                for t in self.releases
            ],
            "lens_deferrals": self.lens_deferrals,
            "share": _range(self.share),
            "even_share": self.even_share,
            "held": {
                name: {
                    "longest": held.longest,
                    "longest_step": held.longest_step,
                    "now": held.now,
                    "patience": held.patience,
                }
                for name, held in (
                    ("dormancy", self.dormancy),
                    ("overload", self.overload),
                    ("convergence", self.convergence),
                    ("suspicion", self.suspicion),
                )
            },
            "nearest": None if self.nearest is None else dict(vars(self.nearest)),
            "proposals": [spell.to_dict() for spell in self.spells],
            "answers": [
                {"action": action, "happened": happened, "text": text}
                for action, happened, text in self.answers()
            ],
        }


def _range(series: Series) -> dict[str, float] | None:
    if not series.count:
        return None
    s = series
    return {"first": s.first, "last": s.last, "low": s.low, "high": s.high}


def _lasted(held: Held) -> str:
    patience = _or_unknown(held.patience)
    if not held.longest:
        return f"its counter stayed at 0 of {patience} checkpoints"
    return (
        f"its counter got to {held.longest} of {patience} checkpoints{_at(held.longest_step)}"
        f", now {held.now}"
    )


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def _or_unknown(value: object) -> str:
    return "?" if value is None else f"{value}"


def gather_story(run: Run, expert_id: str, config: Mapping[str, Any]) -> Story:
    """Read transitions and evaluations for one expert; the decisions are handed in after it."""
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
    """The experts that logs speak of, for a hint to who asked for another."""

    found: set[str] = field(default_factory=set)

    def add(self, *names: str | None) -> None:
        """Add names, as far as there is room."""
        if len(self.found) < _MOST_NAMES:
            self.found.update(name[:80] for name in names if name)


def refuse_unknown(story: Story, names: Names, where: object) -> None:
    """Raise UserError for an expert that no log speaks of."""
    if story.decisions or story.changes or story.releases or story.checkpoints or story.spells:
        return
    known = sorted(names.found, key=natural)
    span = f"one of {known[0]} to {known[-1]}" if known else "one that its logs speak of"
    raise UserError(
        f"inspect: --why {story.expert_id} is in no log of {where}, expected {span}; name another"
    )
