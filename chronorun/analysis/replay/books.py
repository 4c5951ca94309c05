"""The experts of a run, derived again: identity, state, twins, ramps, slots.

Every move of the registry follows from the decisions and the shares, but for two that were
measured: whether an expert that leaves fades out first, and when twins are released.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action, Candidate
from chronorun.lifecycle.experts import aging
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import LifecycleDecision

BIRTHS = (Action.SPLIT, Action.SPAWN, Action.REVIVE)


@dataclass(frozen=True)
class Waiting:
    """A decision that is carried out later: a birth, or an expert that fades out."""

    decision: LifecycleDecision
    due_step: int
    ramp_steps: int


@dataclass(frozen=True)
class Undo:
    """Whom an edit brought into its layer and whom it took out of it."""

    name: str
    born: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def leaver(decision: LifecycleDecision) -> str:
    """Return the expert that a prune or merge takes out of its layer."""
    return decision.partner_id or decision.expert_id


class Books:
    """What the coordinator's registry and population held, as far as policies read it."""

    def __init__(self, n_layers: int, n_experts: int, config: LifecycleConfig) -> None:
        self.config = config
        self.registry = Registry([n_experts] * n_layers, config.basin_window_size)
        self.pending: list[Waiting] = []
        self.leaving: list[Waiting] = []
        self.ramps: dict[str, tuple[int, int]] = {}
        self.undo: dict[int, Undo] = {}
        self.last_step = 0
        self._window_steps = 1

    # ---- between checkpoints ----------------------------------------------------------------

    def due_steps(self, end: int | None = None) -> list[int]:
        """Return the training steps before ``end`` (None: all) at which the population changes."""
        steps = {one.due_step for one in (*self.pending, *self.leaving)}
        return sorted(step for step in steps if end is None or step < end)

    def begin_step(self, step: int) -> list[LifecycleDecision]:
        """Carry out what is due at the start of a training step; returns what was finished."""
        faded = [one for one in self.leaving if one.due_step <= step]
        self.leaving = [one for one in self.leaving if one.due_step > step]
        born, self.pending = self.pending, []
        done = [self._remove(one.decision, step) for one in faded]
        return [*done, *(self._integrate(one, step) for one in born)]

    def _integrate(self, one: Waiting, step: int) -> LifecycleDecision:
        d, registry = one.decision, self.registry
        before = registry.slots(d.layer_id)
        if one.ramp_steps and self.config.spawn_ramp_offset < 0.0:
            self.ramps[d.expert_id] = (step, one.ramp_steps)
        if d.action == Action.REVIVE:
            registry.restore(d.expert_id, step, "revived")
        else:
            registry.integrate(d.expert_id, step)
        if d.action == Action.SPLIT and d.parent_id is not None:
            registry.pair(d.parent_id, d.expert_id)
        self.undo[d.seq] = Undo(f"{d.action} {d.seq}", born=(d.expert_id,))
        return self._finished(d, step, before)

    def _remove(self, d: LifecycleDecision, step: int) -> LifecycleDecision:
        before = self.registry.slots(d.layer_id)
        gone = leaver(d)
        self.ramps.pop(gone, None)
        self.registry.remove(gone, step, None if gone == d.expert_id else d.expert_id)
        self.undo[d.seq] = Undo(f"{d.action} {d.seq}", gone=(gone,))
        done = self._finished(d, step, before)
        if gone != d.expert_id:
            record = self.registry[d.expert_id]
            record.basin = record.basin.merged_with(self.registry[gone].basin)
        return done

    def _finished(
        self, d: LifecycleDecision, step: int, before: Sequence[str]
    ) -> LifecycleDecision:
        after = self.registry.slots(d.layer_id)
        return replace(d, integrated_step=step, experts_before=list(before), experts_after=after)

    def is_live(self, expert_id: str) -> bool:
        """Say whether an expert has a slot."""
        record = self.registry.records.get(expert_id)
        return record is not None and expert_id in self.registry.slots(record.layer_id)

    def plant(self, expert_id: str, partner_id: str, step: int) -> None:
        """Let a scenario make one expert of two, before the first forward of a step."""
        self.registry.transition(partner_id, ExpertState.pending_prune, step, "planted")
        self.registry.remove(partner_id, step, expert_id)

    # ---- at a checkpoint --------------------------------------------------------------------

    def open_checkpoint(self, step: int, shares: Mapping[int, Sequence[float]]) -> None:
        """Let time pass until a checkpoint: ramps end, live experts age."""
        self._window_steps = max(1, step - self.last_step)
        self.last_step = step
        self.ramps = {
            name: ramp for name, ramp in self.ramps.items() if step - 1 - ramp[0] < ramp[1]
        }
        for layer_id, layer_shares in shares.items():
            if any(layer_shares):
                aging.tick(self.registry, layer_id)

    def settle(self, step: int, shares: Mapping[int, Sequence[float]]) -> None:
        """Move experts on as their shares say."""
        period = self.config.cooling_period
        for layer_id, layer_shares in shares.items():
            if any(layer_shares):
                aging.settle(self.registry, layer_id, layer_shares, self.ramps, step, period)

    def keep_undo(self, seqs: Collection[int]) -> None:
        """Forget how to undo the edits that were judged."""
        self.undo = {seq: undo for seq, undo in self.undo.items() if seq in seqs}

    def fades_until(self, step: int) -> int:
        """Return when an expert is gone that begins to fade out at this checkpoint."""
        return step + self.config.cooling_period * self._window_steps

    def carry_out(
        self, c: Candidate, decision: LifecycleDecision, fades: bool
    ) -> LifecycleDecision | None:
        """Do what was decided; returns the finished decision, None where it waits."""
        ramp_steps, step = self.config.cooling_period * self._window_steps, decision.step
        if self.config.dry_run:
            return decision
        if c.action in BIRTHS:
            if c.action is not Action.REVIVE:
                self.registry.add(c.layer_id, step, c.parent_id, c.reason)
            # Twins take their places at once: their pair's place in the routing is old.
            length = 0 if c.action is Action.SPLIT else ramp_steps
            self.pending.append(Waiting(decision, step, length))
            return None
        if c.action is Action.ROLLBACK:
            return self._roll_back(c, decision)
        if c.action is Action.MERGE and not fades:
            return self._merge(c, decision)
        gone = leaver(decision)
        why = c.reason if c.action is Action.MERGE else "confirmed dead"
        self.registry.transition(gone, ExpertState.pending_prune, step, why)
        if c.action is Action.MERGE:
            self.registry.transition(c.expert_id, ExpertState.cooling, step, f"absorbs {gone}")
        if not fades:
            return self._remove(decision, step)
        self.ramps[gone] = (step, ramp_steps)
        self.leaving.append(Waiting(decision, step + ramp_steps, ramp_steps))
        return None

    def _merge(self, c: Candidate, d: LifecycleDecision) -> LifecycleDecision:
        assert c.partner_id is not None
        registry, before = self.registry, self.registry.slots(d.layer_id)
        registry.transition(c.partner_id, ExpertState.pending_prune, d.step, c.reason)
        registry.remove(c.partner_id, d.step, c.expert_id)
        self.ramps.pop(c.partner_id, None)
        done = self._finished(d, d.step, before)
        record, gone = registry[c.expert_id], registry[c.partner_id]
        record.basin = record.basin.merged_with(gone.basin)
        registry.transition(c.expert_id, ExpertState.cooling, d.step, f"absorbed {c.partner_id}")
        self.undo[d.seq] = Undo(f"{d.action} {d.seq}", gone=(c.partner_id,))
        return done

    def _roll_back(self, c: Candidate, d: LifecycleDecision) -> LifecycleDecision:
        assert c.undoes is not None
        registry, before = self.registry, self.registry.slots(d.layer_id)
        undo = self.undo.pop(c.undoes)
        for expert_id in undo.born:
            registry.transition(expert_id, ExpertState.pending_prune, d.step, "rolled back")
        for expert_id in undo.born:
            registry.remove(expert_id, d.step)
            self.ramps.pop(expert_id, None)
        for expert_id in undo.gone:
            registry.restore(expert_id, d.step, f"rollback of {undo.name}")
        return self._finished(d, d.step, before)
