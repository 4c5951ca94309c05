"""One checkpoint of the policy: counters move on, and in a cycle candidates meet their limits.

``advance`` is pure: the same state, signals and configuration give the same outcome, which is what
makes a run's decisions derivable from its logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from chronorun.config.lifecycle import LifecycleConfig as LifecycleConfig
from chronorun.lifecycle.decide import harm, merge, prune, spawn, split
from chronorun.lifecycle.decide.actions import (
    GROWS,
    SHRINKS,
    Action,
    Candidate,
    Refusal,
    Status,
    Verdict,
)
from chronorun.lifecycle.decide.counters import (
    expert_order,
    is_deciding,
    is_hog,
    pair_key,
    update_counters,
)
from chronorun.lifecycle.decide.harm import Judgement
from chronorun.lifecycle.decide.policy_state import LayerPolicy, PolicyState, Probation
from chronorun.lifecycle.decide.signals import LayerSignals
from chronorun.lifecycle.decide.view import LayerView, Proposal

PROPOSERS = {
    Action.PRUNE: prune.propose,
    Action.MERGE: merge.propose,
    Action.SPLIT: split.propose,
}


@dataclass(frozen=True)
class Outcome:
    """What a checkpoint brought; verdicts and judgements are empty outside a cycle.

    ``treated`` names the experts (layer, id) that get a newborn's optimizer state as a sham.
    """

    checkpoint: int
    is_cycle: bool
    verdicts: list[Verdict] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    suspects: list[tuple[int, str]] = field(default_factory=list)
    treated: list[tuple[int, str]] = field(default_factory=list)

    def executed(self) -> list[Verdict]:
        """Return what is to be carried out, in order."""
        return [v for v in self.verdicts if v.status is Status.executed]


def advance(
    state: PolicyState,
    signals: Sequence[LayerSignals],
    config: LifecycleConfig,
    warmup_steps: int,
) -> tuple[PolicyState, Outcome]:
    """Return the state after one more checkpoint and what it decided."""
    state = state.copy()
    state.checkpoint += 1
    for s in signals:
        _count(state, s, config)
    suspects = [
        (s.layer_id, expert_id)
        for s in signals
        if s.dispatched
        for expert_id, held in state.layers[s.layer_id].counters.suspicion.items()
        # Said once, when the suspicion has lasted.
        if held == config.suspect_patience
    ]
    if state.checkpoint % config.lifecycle_eval_interval:
        return state, Outcome(state.checkpoint, is_cycle=False, suspects=suspects)
    cycle = _Cycle(state, signals, config, warmup_steps)
    cycle.run()
    return state, Outcome(state.checkpoint, True, cycle.verdicts, cycle.judgements, suspects)


def _count(state: PolicyState, signals: LayerSignals, config: LifecycleConfig) -> None:
    layer = state.layers.setdefault(signals.layer_id, LayerPolicy())
    if signals.dispatched:
        # A new list: the state before this checkpoint keeps its own.
        ratios = [*layer.entropy_ratios, signals.token_entropy_ratio]
        layer.entropy_ratios = ratios[-config.spawn_patience - 1 :]
    layer.counters = update_counters(
        layer.counters,
        signals,
        config,
        state.on_probation(),
        layer.patience(Action.PRUNE, config.prune_patience),
        is_deciding(layer.entropy_ratios, config),
    )


class _Cycle:
    """The order of actions, the limits that all of them share, and what was decided so far."""

    def __init__(
        self,
        state: PolicyState,
        signals: Sequence[LayerSignals],
        config: LifecycleConfig,
        warmup_steps: int,
    ) -> None:
        self.state, self.config, self.warmup_steps = state, config, warmup_steps
        self.views = {
            s.layer_id: LayerView(s, state.layers[s.layer_id], state, config) for s in signals
        }
        self.verdicts: list[Verdict] = []
        self.judgements: list[Judgement] = []
        self.used_layers: set[int] = set()
        self.left = {
            Action.PRUNE: config.max_prunes_per_cycle,
            Action.MERGE: config.max_merges_per_cycle,
            Action.SPLIT: config.max_splits_per_cycle,
            # A revival is a birth: both draw on one budget.
            Action.SPAWN: config.max_spawns_per_cycle,
        }
        self.barred = state.on_probation()
        self.next_in_turn: dict[int, str] = {}

    def run(self) -> None:
        self._judge_probations()
        for action, propose in PROPOSERS.items():
            proposals = [p for view in self._telling() for p in propose(view)]
            proposals.sort(key=lambda p: _rank(p[0]))
            self._decide(action, proposals)
        births = [p for view in self._telling() for p in spawn.propose(view)]
        for candidate, _ in spawn.rank(births, self.state, self.config):
            # Asked again in its turn: a birth starts the cooldown of those after it.
            self._decide(Action.SPAWN, spawn.propose(self.views[candidate.layer_id]))
        self._note_stale()

    def _telling(self) -> Iterator[LayerView]:
        """Yield the layers whose window says something."""
        return (view for view in self.views.values() if view.signals.dispatched)

    def _judge_probations(self) -> None:
        telling = {view.signals.layer_id: view for view in self._telling()}
        for probation in list(self.state.probations):
            view = telling.get(probation.layer_id)
            if view is None or probation.due > self.state.checkpoint:
                continue
            if probation.layer_id in self.used_layers:
                # After a rollback the layer is no longer the one that was probed.
                continue
            self.state.probations.remove(probation)
            reading = harm.reading_of(view.signals, probation.seq)
            if reading is None:
                # Without a probe, or with too few experts left to undo it, it ends unjudged.
                continue
            judgement = harm.judge(view, probation, reading)
            self.judgements.append(judgement)
            harm.learn(self.state, view.layer, judgement, self.config)
            if judgement.rollback is not None:
                self._settle(judgement.rollback, judgement.refusal)
                if judgement.refusal is None:
                    self.state.unnote_edit(probation.action, probation.layer_id)

    def _decide(self, budget: Action, proposals: Iterable[Proposal]) -> None:
        for candidate, own_limit in proposals:
            refusal = own_limit or self._common_limit(candidate, budget)
            if refusal is None:
                self.left[budget] -= 1
            self._settle(candidate, refusal)

    def _common_limit(self, c: Candidate, budget: Action) -> Refusal | None:
        view = self.views[c.layer_id]
        reversal = self._reversal(c, view)
        why = None
        if view.step < self.warmup_steps:
            why = f"warm-up until step {self.warmup_steps}"
        elif c.touches & self.barred:
            why = f"{', '.join(sorted(c.touches & self.barred))} on probation"
        elif reversal is not None:
            why = reversal
            if c.action in SHRINKS:
                self.next_in_turn[c.layer_id] = c.key
        elif c.action in GROWS and c.layer_id in self.next_in_turn:
            # A layer that goes on growing would put off a merge or prune for ever.
            why = f"{self.next_in_turn[c.layer_id]} is next in this layer"
        elif c.layer_id in self.used_layers:
            why = "one action per layer and cycle"
        elif view.signals.pending_spawns:
            why = "a birth of this layer waits for its integration"
        elif self.left[budget] <= 0:
            why = f"max_{budget.lower()}s_per_cycle reached"
        return None if why is None else Refusal(Status.deferred, why)

    def _reversal(self, c: Candidate, view: LayerView) -> str | None:
        """Keep opposite edits of a layer apart, but for a prune that frees room for a split."""
        wait = self.config.reversal_cooldown_checkpoints
        opposite = SHRINKS if c.action in GROWS else GROWS
        for action, checkpoint in view.layer.last_edits.items():
            since = self.state.checkpoint - checkpoint
            if action not in opposite or since >= wait:
                continue
            if action != Action.PRUNE or not self._splits_hog(c, view):
                return f"reversal_cooldown_checkpoints={wait}, {action} {since} checkpoints ago"
        return None

    def _splits_hog(self, c: Candidate, view: LayerView) -> bool:
        if c.action is not Action.SPLIT or c.parent_id is None:
            return False
        parent = view.signals.expert(c.parent_id)
        return parent is not None and is_hog(parent, view.signals, self.config)

    def _settle(self, candidate: Candidate, refusal: Refusal | None) -> None:
        if refusal is not None:
            self.verdicts.append(Verdict(candidate, refusal.status, refusal.why))
            return
        seq = self.state.next_seq
        self.state.next_seq += 1
        self.used_layers.add(candidate.layer_id)
        step = self.views[candidate.layer_id].step
        self.state.note_edit(candidate.action, candidate.layer_id, step)
        if candidate.action is Action.SPLIT:
            assert candidate.parent_id is not None
            for expert_id in (candidate.parent_id, candidate.expert_id):
                self.state.last_split_step[expert_id] = step
        self._start_over(candidate)
        self._put_on_probation(candidate, seq)
        self.verdicts.append(Verdict(candidate, Status.executed, seq=seq))

    def _start_over(self, c: Candidate) -> None:
        """Let the condition of an executed edit last anew before the next one of its kind.

        Most end with the edit itself; starvation may not, and in a dry run none does.
        """
        layer = self.views[c.layer_id].layer
        counters = layer.counters
        if c.action in (Action.SPAWN, Action.REVIVE):
            layer.counters = replace(counters, starvation=0)
        elif not self.config.dry_run:
            return
        elif c.action is Action.PRUNE:
            layer.counters = replace(counters, dormancy=_without(counters.dormancy, c.subject))
        elif c.action is Action.SPLIT:
            layer.counters = replace(counters, overload=_without(counters.overload, c.subject))
        elif c.action is Action.MERGE and c.partner_id is not None:
            key = pair_key(c.expert_id, c.partner_id)
            layer.counters = replace(counters, convergence=_without(counters.convergence, key))

    def _put_on_probation(self, c: Candidate, seq: int) -> None:
        if self.config.dry_run or c.action is Action.ROLLBACK:
            return
        experts = tuple(dict.fromkeys((c.expert_id, *sorted(_bound(c)))))
        wait = self.config.probation_checkpoints
        if c.action in SHRINKS:
            # Whoever leaves may fade out over the cooling period: before that there is no edit.
            wait = max(wait, self.config.cooling_period + 1)
        due = self.state.checkpoint + wait
        self.state.probations.append(Probation(seq, c.action, c.layer_id, experts, due))
        self.barred = self.barred | frozenset(experts)

    def _note_stale(self) -> None:
        """Say of what was put off before that its condition is gone; remember what is now."""
        seen = {v.candidate.key for v in self.verdicts}
        telling = {view.signals.layer_id: view.signals for view in self._telling()}
        held = {}
        for key, text in self.state.deferred.items():
            signals = telling.get(int(text))
            if signals is None:
                # A window without tokens ends no condition.
                held[key] = text
            elif key not in seen:
                gone = _ended(key, signals)
                self.verdicts.append(Verdict(gone, Status.stale, "put off before, no longer due"))
        self.state.deferred = held | {
            v.candidate.key: str(v.candidate.layer_id)
            for v in self.verdicts
            if v.status is Status.deferred
        }


def _without(held: dict[str, int], key: str) -> dict[str, int]:
    return {name: n for name, n in held.items() if name != key}


def _rank(c: Candidate) -> tuple[int, int, list[tuple[int, str]]]:
    """Sort key of candidates: longest held, then lowest layer, then oldest id."""
    ids = (c.parent_id if c.action is Action.SPLIT else c.expert_id, c.partner_id)
    return -c.held, c.layer_id, [expert_order(i) for i in ids if i is not None]


def _ended(key: str, signals: LayerSignals) -> Candidate:
    """Return the candidate that a key names, now that its condition has ended."""
    name, _, subject = key.partition(" ")
    action, layer_id = Action(name), signals.layer_id
    first, _, partner = subject.partition("|")
    if action in (Action.SPLIT, Action.SPAWN):
        parent_id = first if action is Action.SPLIT else None
        newborn = signals.next_expert_id
        return Candidate(action, layer_id, newborn, "condition_ended", 0, parent_id=parent_id)
    return Candidate(action, layer_id, first, "condition_ended", 0, partner_id=partner or None)


def _bound(c: Candidate) -> Iterator[str]:
    """Yield the other experts whose weights or tokens an edit changed."""
    if c.action is Action.SPLIT and c.parent_id is not None:
        yield c.parent_id
    if c.action is Action.MERGE and c.partner_id is not None:
        yield c.partner_id
