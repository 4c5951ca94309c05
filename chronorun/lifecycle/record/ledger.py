"""The ledger of a population: who lives, waits, fades out, and what an edit brought and took.

It makes every move of the registry, at evaluations and between them, and knows no tensors. A run
holds one beside its model, a replay holds one alone; both call it in the same order, so that the
same decisions give the same experts, states and transitions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action, Candidate
from chronorun.lifecycle.experts import aging
from chronorun.lifecycle.experts.ramps import Ramp
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import LifecycleDecision

BIRTHS = (Action.SPLIT, Action.SPAWN, Action.REVIVE)


@dataclass(frozen=True)
class Waiting:
    """A decision that is carried out later: a birth, or the removal of an expert that fades out.

    ``parts`` is what the owner of the tensors keeps for it; a replay has nothing to keep.
    """

    decision: LifecycleDecision
    due_step: int
    ramp_steps: int = 0
    is_pair: bool = False
    parts: Any = None

    @property
    def is_birth(self) -> bool:
        """Whether an expert enters."""
        return self.decision.action in BIRTHS


@dataclass(frozen=True)
class Undo:
    """What it takes to undo an edit: ``born`` came by it, ``gone`` left by it.

    ``saved`` holds what has to be put back, a split's parent, a merge's survivor, those gone: each
    as it was before the edit. ``released_by`` is the offset that a release added to both twins of a
    split; None before it.
    """

    seq: int
    action: Action
    layer_id: int
    born: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    saved: Mapping[str, Any] = field(default_factory=dict)
    released_by: float | None = None


def leaver(decision: LifecycleDecision) -> str:
    """Return the expert that a prune or merge takes out of its layer."""
    return decision.partner_id or decision.expert_id


class Ledger:
    """The experts of all layers, and what is still to be done to them."""

    def __init__(self, registry: Registry, config: LifecycleConfig) -> None:
        self.registry = registry
        self.config = config
        self.pending: list[Waiting] = []
        self.leaving: list[Waiting] = []
        self.ramps: dict[str, Ramp] = {}
        self.undo: dict[int, Undo] = {}
        self.last_step = 0
        self.window_steps = 1

    @property
    def ramp_steps(self) -> int:
        """How many training steps an expert takes to settle in, or to fade out."""
        return self.config.cooling_period * self.window_steps

    # ---- between evaluations ----------------------------------------------------------------

    def due_steps(self, end: int | None = None) -> list[int]:
        """Return the training steps before ``end`` (None: all) at which the population changes."""
        steps = {one.due_step for one in (*self.pending, *self.leaving)}
        return sorted(step for step in steps if end is None or step < end)

    def take_due(self, step: int) -> list[Waiting]:
        """Return what is to be finished at the start of a training step, removals first."""
        waiting = [*self.leaving, *self.pending]
        due = [one for one in waiting if one.due_step <= step]
        self.leaving = [one for one in self.leaving if one.due_step > step]
        self.pending = [one for one in self.pending if one.due_step > step]
        return due

    def finish(
        self,
        one: Waiting,
        step: int,
        *,
        base: float = 0.0,
        start: float = 0.0,
        saved: Mapping[str, Any] | None = None,
    ) -> LifecycleDecision:
        """Let an expert in or out; returns the finished decision.

        A newborn with a ramp begins at the logit offset ``base + start``.
        """
        if not one.is_birth:
            return self._remove(one.decision, step, saved)
        d, registry = one.decision, self.registry
        before = registry.slots(d.layer_id)
        if one.ramp_steps:
            self.ramps[d.expert_id] = Ramp(step, one.ramp_steps, base, start)
        if d.action == Action.REVIVE:
            registry.restore(d.expert_id, step, "revived")
        else:
            registry.integrate(d.expert_id, step)
        if one.is_pair:
            assert d.parent_id is not None
            registry.pair(d.parent_id, d.expert_id)
        self._remember(d, born=(d.expert_id,), saved=saved)
        return self._finished(d, step, before)

    def end_ramps(self, step: int) -> None:
        """Forget the ramps that have reached their base by a training step."""
        self.ramps = {name: ramp for name, ramp in self.ramps.items() if not ramp.is_over(step)}

    def plant(self, expert_id: str, partner_id: str, step: int) -> None:
        """Let a scenario make one expert of two: the partner leaves, merged into the first."""
        self.registry.transition(partner_id, ExpertState.pending_prune, step, "planted")
        self.registry.remove(partner_id, step, expert_id)

    # ---- at an evaluation -------------------------------------------------------------------

    def open_evaluation(self, step: int, shares: Mapping[int, Sequence[float]]) -> None:
        """Let live experts age by one evaluation; ``shares`` [E] by layer, all 0 if none routed."""
        self.window_steps = max(1, step - self.last_step)
        self.last_step = step
        for layer_id, layer_shares in shares.items():
            if any(layer_shares):
                aging.tick(self.registry, layer_id)

    def settle(self, shares: Mapping[int, Sequence[float]]) -> None:
        """Move experts on as their shares say: cooled down, out of use, in use again."""
        period = self.config.cooling_period
        for layer_id, each in shares.items():
            if any(each):
                aging.settle(self.registry, layer_id, each, self.ramps, self.last_step, period)

    def keep_undo(self, seqs: Collection[int]) -> None:
        """Forget how to undo edits, but for those that are still to be judged."""
        self.undo = {seq: undo for seq, undo in self.undo.items() if seq in seqs}

    def note_release(self, child: str, offset: float) -> None:
        """Remember that the twins of a split compete from now on, both moved by ``offset``."""
        for seq, undo in self.undo.items():
            if undo.born == (child,):
                self.undo[seq] = replace(undo, released_by=offset)

    def stage(
        self,
        c: Candidate,
        decision: LifecycleDecision,
        *,
        is_pair: bool,
        ramp_steps: int,
        parts: Any = None,
    ) -> None:
        """Register a birth; the expert enters at the start of the next training forward.

        Others than twins ramp in over ``ramp_steps``: a pair's place in the routing is old.
        """
        if c.action is not Action.REVIVE:
            self.registry.add(c.layer_id, decision.step, c.parent_id, c.reason)
        length = 0 if is_pair or self.config.spawn_ramp_offset == 0.0 else ramp_steps
        self.pending.append(Waiting(decision, decision.step, length, is_pair, parts))

    def leave(
        self,
        c: Candidate,
        decision: LifecycleDecision,
        *,
        ramp: Ramp | None = None,
        saved: Mapping[str, Any] | None = None,
        parts: Any = None,
    ) -> LifecycleDecision | None:
        """Take the expert of a prune or merge out: at once, or when ``ramp`` is over.

        Returns the finished decision, None where the expert fades out first.
        """
        registry, step, gone = self.registry, decision.step, leaver(decision)
        is_merge = c.action is Action.MERGE
        why = c.reason if is_merge else "confirmed dead"
        registry.transition(gone, ExpertState.pending_prune, step, why)
        done = None
        if ramp is None:
            done = self._remove(decision, step, saved)
        else:
            self.ramps[gone] = ramp
            due = step + ramp.length_steps
            self.leaving.append(Waiting(decision, due, ramp.length_steps, parts=parts))
        if is_merge:
            how = f"absorbs {gone}" if done is None else f"absorbed {gone}"
            registry.transition(c.expert_id, ExpertState.cooling, step, how)
        return done

    def roll_back(self, c: Candidate, decision: LifecycleDecision) -> LifecycleDecision:
        """Take out what an edit brought and bring back what it took; returns the decision."""
        assert c.undoes is not None
        registry, step = self.registry, decision.step
        before, undo = registry.slots(c.layer_id), self.undo.pop(c.undoes)
        for expert_id in undo.born:
            registry[expert_id].rolled_back = True
            registry.transition(expert_id, ExpertState.pending_prune, step, "rolled back")
        for expert_id in undo.born:
            registry.remove(expert_id, step)
            self.ramps.pop(expert_id, None)
        for expert_id in undo.gone:
            registry.restore(expert_id, step, f"rollback of {undo.action} {undo.seq}")
        return self._finished(decision, step, before)

    # ---- shared -----------------------------------------------------------------------------

    def _remove(
        self, d: LifecycleDecision, step: int, saved: Mapping[str, Any] | None
    ) -> LifecycleDecision:
        registry, gone = self.registry, leaver(d)
        before = registry.slots(d.layer_id)
        merged_into = None if gone == d.expert_id else d.expert_id
        if merged_into is not None:
            survivor = registry[merged_into]
            survivor.basin = survivor.basin.merged_with(registry[gone].basin)
        registry.remove(gone, step, merged_into)
        self.ramps.pop(gone, None)
        self._remember(d, gone=(gone,), saved=saved)
        return self._finished(d, step, before)

    def _remember(
        self,
        d: LifecycleDecision,
        *,
        born: tuple[str, ...] = (),
        gone: tuple[str, ...] = (),
        saved: Mapping[str, Any] | None,
    ) -> None:
        self.undo[d.seq] = Undo(d.seq, Action(d.action), d.layer_id, born, gone, saved or {})

    def _finished(
        self, d: LifecycleDecision, step: int, before: Sequence[str]
    ) -> LifecycleDecision:
        after = self.registry.slots(d.layer_id)
        return replace(d, integrated_step=step, experts_before=list(before), experts_after=after)
