"""The ledger of a population: single moves, and all of them beside a naive dictionary."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, strategies as st

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.experts.ramps import Ramp
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.lifecycle.record.ledger import BIRTHS, Ledger

EVERY = 10


def new(n_experts: int, **config: Any) -> Ledger:
    return Ledger(Registry([n_experts]), LifecycleConfig(**config))


def carried(
    ledger: Ledger,
    action: Action,
    expert_id: str,
    seq: int = 0,
    *,
    fades: bool = False,
    **more: Any,
) -> LifecycleDecision | None:
    c = Candidate(action, 0, expert_id, "why", 1, **more)
    slots = ledger.registry.slots(0)
    verdict = Verdict(c, Status.executed, seq=seq)
    decision = make_decision(verdict, ledger.last_step, "r", ledger.config, slots)
    if action in BIRTHS:
        is_pair = action is Action.SPLIT
        ledger.stage(c, decision, is_pair=is_pair, ramp_steps=ledger.ramp_steps)
        return None
    if action is Action.ROLLBACK:
        return ledger.roll_back(c, decision)
    ramp = Ramp(ledger.last_step, ledger.ramp_steps) if fades else None
    return ledger.leave(c, decision, ramp=ramp)


def step_on(ledger: Ledger, step: int) -> list[LifecycleDecision]:
    return [ledger.finish(one, step) for one in ledger.take_due(step)]


def evaluation(ledger: Ledger, step: int, shares: list[float]) -> None:
    ledger.end_ramps(step - 1)
    ledger.open_evaluation(step, {0: shares})
    ledger.settle({0: shares})


def even(n: int) -> list[float]:
    return [1.0 / n] * n


# --- single moves


def test_a_split_waits_for_the_next_step_and_makes_twins_without_a_ramp() -> None:
    ledger = new(2)
    evaluation(ledger, 10, even(2))
    assert carried(ledger, Action.SPLIT, "L0_E2", parent_id="L0_E0") is None
    assert ledger.due_steps(20) == [10]
    (done,) = step_on(ledger, 10)
    assert (done.integrated_step, done.experts_after) == (10, ["L0_E0", "L0_E1", "L0_E2"])
    assert ledger.registry.twins == {"L0_E2": "L0_E0"}
    assert ledger.ramps == {}


def test_a_spawns_ramp_lasts_for_the_cooling_period() -> None:
    ledger = new(2, cooling_period=2)
    evaluation(ledger, 10, even(2))
    carried(ledger, Action.SPAWN, "L0_E2")
    step_on(ledger, 10)
    for step, ramping in ((20, True), (30, True), (40, False)):
        evaluation(ledger, step, even(3))
        assert ("L0_E2" in ledger.ramps) is ramping, step


def test_a_dead_expert_that_fades_out_is_removed_when_its_ramp_ends() -> None:
    ledger = new(3, cooling_period=2)
    evaluation(ledger, 10, [0.5, 0.0, 0.5])
    assert carried(ledger, Action.PRUNE, "L0_E1", fades=True) is None
    assert (ledger.due_steps(30), ledger.due_steps(31)) == ([], [30])
    assert ledger.take_due(29) == []
    assert "L0_E1" in ledger.ramps
    (done,) = step_on(ledger, 30)
    assert (done.step, done.integrated_step) == (10, 30)
    assert ledger.registry.slots(0) == ["L0_E0", "L0_E2"]
    assert ledger.ramps == {}


def test_a_rollback_undoes_a_birth_and_brings_a_pruned_one_back() -> None:
    ledger = new(3)
    evaluation(ledger, 10, [0.5, 0.0, 0.5])
    carried(ledger, Action.PRUNE, "L0_E1", 0)
    carried(ledger, Action.SPAWN, "L0_E3", 1)
    step_on(ledger, 10)
    assert ledger.registry.slots(0) == ["L0_E0", "L0_E2", "L0_E3"]
    evaluation(ledger, 20, even(3))
    carried(ledger, Action.ROLLBACK, "L0_E3", 2, undoes=1)
    assert ledger.registry["L0_E3"].rolled_back
    done = carried(ledger, Action.ROLLBACK, "L0_E1", 3, undoes=0)
    assert done is not None
    assert done.experts_after == ["L0_E0", "L0_E2", "L0_E1"]
    last = ledger.registry.take_transitions()[-1]
    assert (last.expert_id, last.reason) == ("L0_E1", "rollback of PRUNE 0")


@pytest.mark.parametrize("fades", [False, True])
def test_a_merge_leaves_the_older_cooling_and_joins_the_basins(fades: bool) -> None:
    ledger = new(3, cooling_period=1)
    evaluation(ledger, 10, even(3))
    carried(ledger, Action.MERGE, "L0_E0", partner_id="L0_E2", fades=fades)
    states = [ledger.registry[name].state for name in ("L0_E0", "L0_E2")]
    gone = ExpertState.pending_prune if fades else ExpertState.archived
    assert states == [ExpertState.cooling, gone]
    step_on(ledger, 20)
    assert ledger.registry["L0_E2"].merged_into == "L0_E0"
    assert ledger.undo[0].gone == ("L0_E2",)


def test_a_release_is_remembered_with_its_split() -> None:
    ledger = new(2)
    evaluation(ledger, 10, even(2))
    carried(ledger, Action.SPLIT, "L0_E2", 4, parent_id="L0_E1")
    step_on(ledger, 10)
    ledger.note_release("L0_E2", 0.25)
    assert ledger.undo[4].released_by == 0.25
    ledger.keep_undo([])
    assert ledger.undo == {}


# --- all of them beside a naive dictionary


@dataclass
class Naive:
    """What the contract says, written down without the registry: names, words and lists."""

    period: int
    state: dict[str, str] = field(default_factory=dict)
    age: dict[str, int] = field(default_factory=dict)
    slots: list[str] = field(default_factory=list)
    twins: dict[str, str] = field(default_factory=dict)
    ramp_end: dict[str, int] = field(default_factory=dict)
    waits: list[tuple[int, str, str, str, str | None]] = field(default_factory=list)
    kept: dict[int, tuple[str, str]] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)

    def set(self, name: str, state: str) -> None:
        self.state[name], self.age[name] = state, 0

    def free(self, *states: str) -> list[str]:
        busy = {*self.twins, *self.twins.values(), *self.ramp_end}
        return [n for n in self.slots if self.state[n] in states and n not in busy]

    def look(self, step: int, shares: list[float]) -> None:
        self.ramp_end = {n: end for n, end in self.ramp_end.items() if end > step - 1}
        twins = {*self.twins, *self.twins.values()}
        excused = twins | set(self.ramp_end)
        for name, share in zip(self.slots, shares, strict=True):
            self.age[name] += 1
            if self.state[name] == "cooling" and self.age[name] >= self.period:
                if name not in twins:
                    self.set(name, "active")
            elif self.state[name] == "dormant" and share:
                self.set(name, "active")
            elif self.state[name] == "active" and not share and name not in excused:
                self.set(name, "dormant")

    def drop(self, name: str, seq: int) -> None:
        self.set(name, "archived")
        self.slots.remove(name)
        self.ramp_end.pop(name, None)
        self.kept[seq] = ("gone", name)

    def pass_to(self, step: int, seqs: dict[str, int]) -> None:
        due = [w for w in self.waits if w[0] <= step]
        self.waits = [w for w in self.waits if w[0] > step]
        for _, what, name, action, parent in sorted(due, key=lambda w: w[1] != "out"):
            if what == "out":
                self.drop(name, seqs[name])
                continue
            self.set(name, "active" if action == "REVIVE" else "cooling")
            self.slots.append(name)
            if action == "SPLIT" and parent is not None:
                self.twins[name] = parent
            else:
                self.ramp_end[name] = step + self.period * EVERY
            self.kept[seqs[name]] = ("born", name)


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_any_history_is_that_of_a_naive_dictionary(seed: int, period: int) -> None:
    draw = random.Random(seed)
    ledger = new(4, cooling_period=period)
    naive = Naive(period, slots=[f"L0_E{i}" for i in range(4)])
    for name in naive.slots:
        naive.set(name, "active")
    seqs: dict[str, int] = {}
    made = 4
    for seq in range(12):
        step = EVERY * (seq + 1)
        shares = [draw.choice([0.0, 0.25, 0.5]) for _ in naive.slots]
        shares[0] = shares[0] or 0.5
        evaluation(ledger, step, shares)
        naive.look(step, shares)
        fades, fresh, length = draw.random() < 0.5, f"L0_E{made}", period * EVERY
        dead, awake = naive.free("dormant"), naive.free("active")
        stored = [n for n, state in naive.state.items() if state == "archived"]
        stored = [n for n in stored if n not in naive.spoilt]
        undoable = [
            (s, *k)
            for s, k in naive.kept.items()
            if naive.state[k[1]] == ("archived" if k[0] == "gone" else "active")
            and (k[0] == "gone" or k[1] in awake)
        ]
        kind = draw.choice(list(Action))
        if kind is Action.SPLIT and awake:
            parent = draw.choice(awake)
            carried(ledger, kind, fresh, seq, parent_id=parent)
            naive.waits.append((step, "in", fresh, "SPLIT", parent))
            naive.set(fresh, "pending_spawn")
            seqs[fresh], made = seq, made + 1
        elif kind is Action.SPAWN:
            carried(ledger, kind, fresh, seq)
            naive.waits.append((step, "in", fresh, "SPAWN", None))
            naive.set(fresh, "pending_spawn")
            seqs[fresh], made = seq, made + 1
        elif kind is Action.REVIVE and stored:
            name = draw.choice(stored)
            carried(ledger, kind, name, seq)
            naive.waits.append((step, "in", name, "REVIVE", None))
            seqs[name] = seq
        elif (kind is Action.PRUNE and dead) or (kind is Action.MERGE and len(awake) > 1):
            one, gone = (None, draw.choice(dead)) if kind is Action.PRUNE else awake[:2]
            more = {} if one is None else {"partner_id": gone}
            carried(ledger, kind, one or gone, seq, fades=fades, **more)
            naive.set(gone, "pending_prune")
            if one is not None:
                naive.set(one, "cooling")
                naive.spoilt.add(gone)
            if fades:
                naive.waits.append((step + length, "out", gone, str(kind), None))
                naive.ramp_end[gone], seqs[gone] = step + length, seq
            else:
                naive.drop(gone, seq)
        elif kind is Action.ROLLBACK and undoable:
            undoes, how, name = draw.choice(undoable)
            carried(ledger, kind, name, seq, undoes=undoes)
            del naive.kept[undoes]
            if how == "born":
                naive.set(name, "archived")
                naive.slots.remove(name)
                naive.ramp_end.pop(name, None)
                naive.spoilt.add(name)
            else:
                naive.set(name, "active")
                naive.slots.append(name)
                naive.spoilt.discard(name)
        for later in range(step, step + EVERY):
            step_on(ledger, later)
            naive.pass_to(later, seqs)
        if naive.twins and draw.random() < 0.5:
            child = draw.choice(sorted(naive.twins))
            ledger.registry.release(child)
            del naive.twins[child]
        assert ledger.registry.slots(0) == naive.slots
        assert {n: str(r.state) for n, r in ledger.registry.records.items()} == naive.state
        assert {n: ledger.registry[n].checkpoints_in_state for n in naive.slots} == {
            n: naive.age[n] for n in naive.slots
        }
        assert ledger.registry.twins == naive.twins
        assert {n: r.integrated_step + r.length_steps for n, r in ledger.ramps.items()} == (
            naive.ramp_end
        )
        assert {s: (u.born, u.gone) for s, u in ledger.undo.items()} == {
            s: ((n,), ()) if how == "born" else ((), (n,)) for s, (how, n) in naive.kept.items()
        }
