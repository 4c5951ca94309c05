"""Signals of made-up layers, a policy to feed them to, and a population that lives by it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import msgspec

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.decide.cycle import Outcome, advance
from chronorun.lifecycle.decide.policy_state import LayerPolicy, PolicyState
from chronorun.lifecycle.decide.signals import (
    ArchiveMatch,
    ExpertSignals,
    LayerSignals,
    PairSignals,
    ProbationReading,
    check_signals,
)
from chronorun.lifecycle.decide.view import LayerView
from chronorun.lifecycle.experts.states import ExpertState

S = ExpertState


def name(e: int, layer_id: int = 0) -> str:
    return f"L{layer_id}_E{e}"


def expert(
    e: int, share: float = 0.25, state: ExpertState = S.active, layer_id: int = 0, **more: Any
) -> ExpertSignals:
    plain: dict[str, Any] = {"born_step": 0} | more
    return ExpertSignals(expert_id=name(e, layer_id), state=state, share=share, **plain)


def layer(experts: Iterable[ExpertSignals], layer_id: int = 0, **more: Any) -> LayerSignals:
    plain: dict[str, Any] = {
        "step": 1000,
        "checkpoint": 1,
        "layer_id": layer_id,
        "top_k": 1,
        "max_top_k": 1,
        "dispatched": 1000,
        "experts": list(experts),
        "layer_entropy": 1.25,
        "layer_neff": 3.5,
        "topology_debt": 0.5,
        "unresolved_debt": 0.25,
        "token_entropy_ratio": 0.7,
        "lens_scale": 0.0,
        "next_expert_id": name(99, layer_id),
    }
    signals = LayerSignals(**plain | more)
    check_signals(signals)
    return signals


def healthy(n: int = 4, layer_id: int = 0, **more: Any) -> LayerSignals:
    return layer((expert(e, 1 / n, layer_id=layer_id) for e in range(n)), layer_id, **more)


def dead(*which: int, n: int = 4, layer_id: int = 0, **more: Any) -> LayerSignals:
    """Return a layer in which some experts are dormant and the others share the load evenly."""
    even = 1 / (n - len(which))
    states = (
        expert(e, 0.0, S.dormant, layer_id) if e in which else expert(e, even, layer_id=layer_id)
        for e in range(n)
    )
    return layer(states, layer_id, **more)


def hogged(who: int = 0, share: float = 0.55, n: int = 4, layer_id: int = 0, **more: Any) -> Any:
    rest = (1 - share) / (n - 1)
    each = (expert(e, share if e == who else rest, layer_id=layer_id) for e in range(n))
    return layer(each, layer_id, **more)


def alike(*pairs: tuple[int, int], n: int = 4, layer_id: int = 0, **more: Any) -> LayerSignals:
    found = [PairSignals(name(a, layer_id), name(b, layer_id), 0.96, 0.9) for a, b in pairs]
    return healthy(n, layer_id, pairs=found, **more)


def starving(n: int = 4, layer_id: int = 0, debt: float = 0.0, **more: Any) -> LayerSignals:
    plain = {
        "token_entropy_ratio": 0.99,
        "unresolved_debt": debt,
        "cluster": [name(1, layer_id), name(2, layer_id)],
    }
    return healthy(n, layer_id, **plain | more)


def with_experts(signals: LayerSignals, **changed: dict[str, Any]) -> LayerSignals:
    """Return the layer with some experts (``E0={...}``) changed."""
    each = [replace(e, **changed.get(e.expert_id.partition("_")[2], {})) for e in signals.experts]
    return replace(signals, experts=each)


def eager(**more: Any) -> LifecycleConfig:
    """Return a configuration that acts at every checkpoint, on a first measurement."""
    plain: dict[str, Any] = {
        "lifecycle_eval_interval": 1,
        "lifecycle_warmup_steps": 0,
        "prune_patience": 1,
        "prune_lens_grace": 0,
        "merge_patience": 1,
        "split_patience": 1,
        "spawn_patience": 1,
        "spawn_cooldown_steps": 0,
        "split_cooldown_per_expert": 0,
        "reversal_cooldown_checkpoints": 0,
    }
    return LifecycleConfig(**plain | more)


def view_of(
    signals: LayerSignals,
    config: LifecycleConfig,
    policy: LayerPolicy | None = None,
    state: PolicyState | None = None,
) -> LayerView:
    policy, state = policy or LayerPolicy(), state or PolicyState()
    return LayerView(signals, policy, state, config)


@dataclass
class Policy:
    """Feeds checkpoints, ``every`` steps apart, to a policy and keeps what came out."""

    config: LifecycleConfig
    every: int = 100
    warmup_steps: int = 0
    state: PolicyState = field(default_factory=PolicyState)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def step(self) -> int:
        return self.state.checkpoint * self.every

    def feed(self, *layers: LayerSignals, times: int = 1) -> Outcome:
        for _ in range(times):
            checkpoint = self.state.checkpoint + 1
            now = [replace(s, step=checkpoint * self.every, checkpoint=checkpoint) for s in layers]
            self.state, outcome = advance(self.state, now, self.config, self.warmup_steps)
            self.outcomes.append(outcome)
        return outcome

    def judge(self, seq: int, benefit: float, restored: float | None = 0.0) -> Outcome:
        """Wait for an edit's judgement in healthy layers; the probe says ``benefit`` of it."""
        probation = next(p for p in self.state.probations if p.seq == seq)
        while True:
            reading = ProbationReading(seq, 2.0 + benefit, 2.0, restored)
            due = probation.due <= self.state.checkpoint + 1
            readings = [reading] if due else []
            ids = sorted(self.state.layers)
            outcome = self.feed(
                *(healthy(layer_id=i, probations=readings if i == probation.layer_id else [])
                  for i in ids)
            )  # fmt: skip
            if any(j.probation.seq == seq for j in outcome.judgements):
                return outcome

    def executed_at(self) -> list[int]:
        """Return the checkpoints at which something was executed."""
        return [o.checkpoint for o in self.outcomes if o.executed()]


def told(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Return (action, subject, status) of all verdicts."""
    return [(str(v.candidate.action), v.candidate.subject, str(v.status)) for v in outcome.verdicts]


def done(outcome: Outcome) -> list[tuple[str, str]]:
    """Return (action, subject) of what was executed."""
    return [(action, subject) for action, subject, status in told(outcome) if status == "executed"]


def why(outcome: Outcome, action: Action) -> list[str]:
    return [v.why for v in outcome.verdicts if v.candidate.action is action]


def verdict(candidate: Candidate, seq: int = 0) -> Verdict:
    return Verdict(candidate, Status.executed, seq=seq)


def through_json(state: PolicyState) -> PolicyState:
    return from_plain(PolicyState, json.loads(json.dumps(to_plain(state))))


def replayed(signals: Sequence[LayerSignals]) -> list[LayerSignals]:
    """Return signals as they come back from the evaluation log."""
    return [
        msgspec.convert(msgspec.json.decode(msgspec.json.encode(s)), LayerSignals) for s in signals
    ]


# --- a population that lives by the policy


@dataclass
class _One:
    expert_id: str
    born_step: int
    parent_id: str | None = None
    twin_of: str | None = None
    state: ExpertState = S.active
    age: int = 99


class Population:
    """Two layers of experts with random signals; executed verdicts change who is there."""

    def __init__(self, rng: Random, n_experts: Sequence[int], max_top_k: int) -> None:
        self.rng, self.max_top_k = rng, max_top_k
        self.live = {i: [_One(name(e, i), 0) for e in range(n)] for i, n in enumerate(n_experts)}
        self.archived: dict[int, list[_One]] = {i: [] for i in self.live}
        self.named = dict(enumerate(n_experts))
        self.edits: dict[int, tuple[int, list[_One], list[_One]]] = {}
        # Moods last for some checkpoints: patience needs that.
        self.mood = dict.fromkeys(self.live, "calm")

    def groups(self, layer_id: int) -> int:
        return sum(e.twin_of is None for e in self.live[layer_id])

    def signals(self, state: PolicyState, step: int) -> list[LayerSignals]:
        return [self._layer(i, state, step) for i in self.live]

    def _layer(self, layer_id: int, state: PolicyState, step: int) -> LayerSignals:
        rng, experts = self.rng, self.live[layer_id]
        if rng.random() < 0.3:
            self.mood[layer_id] = rng.choice(["calm", "dead", "hog", "alike", "starve", "mixed"])
        mood = self.mood[layer_id]
        silent = rng.random() < 0.1
        if not silent:
            for one in experts:
                one.age += 1
                if one.age >= 3:
                    one.twin_of = None
            parents = {one.twin_of for one in experts}
            for index, one in enumerate(experts):
                if one.age < 3:
                    one.state = S.cooling
                    continue
                chance = {"dead": float(index == 1), "mixed": 0.3}.get(mood, 0.0)
                idle = rng.random() < chance and one.expert_id not in parents
                one.state = S.dormant if idle else S.active
        weights = [0.0 if one.state is S.dormant else 0.1 + rng.random() for one in experts]
        if mood in ("hog", "mixed", "dead"):
            weights[0] *= 8
        total = sum(weights) or 1.0
        pairs = [
            PairSignals(a.expert_id, b.expert_id, rng.choice([0.97, 0.99, 0.2]), 0.9)
            for k, a in enumerate(experts)
            for b in experts[k + 1 : k + 2]
            if mood in ("alike", "mixed")
        ]
        return layer(
            (
                ExpertSignals(
                    one.expert_id, one.state, one.born_step, w / total, one.parent_id, one.twin_of,
                    weight_deviation=rng.choice([None, 1.0, 9.0]),
                )
                for one, w in zip(experts, weights, strict=True)
            ),
            layer_id,
            step=step,
            checkpoint=state.checkpoint + 1,
            max_top_k=self.max_top_k,
            pairs=pairs,
            dispatched=0 if silent else 1000,
            unresolved_debt=rng.random(),
            token_entropy_ratio=0.99 if mood in ("starve", "mixed") else 0.7,
            lens_scale=rng.choice([0.0, 0.0, 1.0]),
            next_expert_id=name(self.named[layer_id], layer_id),
            cluster=[one.expert_id for one in experts if one.state is S.active][:2],
            archive_matches=[
                ArchiveMatch(one.expert_id, rng.random()) for one in self.archived[layer_id]
            ],
            probations=[
                ProbationReading(p.seq, 2 + rng.uniform(-0.05, 0.05), 2.0, rng.uniform(1.95, 2.05))
                for p in state.probations
                if p.layer_id == layer_id and p.due <= state.checkpoint + 1 and rng.random() < 0.9
            ],
        )  # fmt: skip

    def carry_out(self, v: Verdict, step: int) -> None:
        c, live = v.candidate, self.live[v.candidate.layer_id]
        born: list[_One] = []
        gone: list[_One] = []
        match c.action:
            case Action.ROLLBACK:
                assert c.undoes is not None
                _, came, left = self.edits.pop(c.undoes)
                born, gone = left, [one for one in came if one in live]
            case Action.PRUNE:
                gone = [one for one in live if one.expert_id == c.expert_id]
            case Action.MERGE:
                gone = [one for one in live if one.expert_id == c.partner_id]
            case Action.REVIVE:
                born = [o for o in self.archived[c.layer_id] if o.expert_id == c.expert_id]
            case _:
                twin = c.parent_id if c.action is Action.SPLIT else None
                born = [_One(c.expert_id, step, c.parent_id, twin, S.cooling, age=0)]
                self.named[c.layer_id] += 1
        assert born or gone
        for one in gone:
            live.remove(one)
            self.archived[c.layer_id].append(one)
        for one in born:
            if one in self.archived[c.layer_id]:
                self.archived[c.layer_id].remove(one)
            live.append(one)
        assert v.seq is not None
        self.edits[v.seq] = (c.layer_id, born, gone)
