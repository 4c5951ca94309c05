"""What the policy remembers between evaluations; a resume and a replay carry it on."""

from __future__ import annotations

from dataclasses import dataclass, field

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.decide.actions import GROWS, SHRINKS, Action
from chronorun.lifecycle.decide.counters import LayerCounters


@dataclass(frozen=True)
class Probation:
    """An edit that is still to be judged, and the experts that take part in nothing meanwhile."""

    seq: int
    action: Action
    layer_id: int
    experts: tuple[str, ...]
    due: int


@dataclass
class LayerPolicy:
    """One layer: counters, patience multipliers and the evaluations of the last edits, by action.

    ``growth`` counts the edits that added an expert less those that took one; ``entropy_ratios``
    are the router's, the newest last, as far back as a spawn's patience.
    """

    counters: LayerCounters = field(default_factory=LayerCounters)
    multipliers: dict[str, int] = field(default_factory=dict)
    last_edits: dict[str, int] = field(default_factory=dict)
    growth: int = 0
    entropy_ratios: list[float] = field(default_factory=list)

    def patience(self, action: Action, base: int) -> int:
        """Return the patience in force: the configured one, longer where such edits did harm."""
        return base * self.multipliers.get(action, 1)


@dataclass
class PolicyState:
    """Everything that decisions depend on apart from signals and configuration.

    ``benefits`` holds, by action, how many edits were judged and their mean realised benefit in
    nats. ``deferred`` names what the last cycle put off.
    """

    checkpoint: int = 0
    next_seq: int = 0
    last_spawn_step: int | None = None
    last_split_step: dict[str, int] = field(default_factory=dict)
    layers: dict[int, LayerPolicy] = field(default_factory=dict)
    probations: list[Probation] = field(default_factory=list)
    benefits: dict[str, tuple[int, float]] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)

    def copy(self) -> PolicyState:
        """Return a state that can change without this one changing."""
        return from_plain(PolicyState, to_plain(self))

    def on_probation(self) -> frozenset[str]:
        """Return the experts that are under probation."""
        return frozenset(name for p in self.probations for name in p.experts)

    def predicted_benefit(self, action: Action) -> float:
        """Return the mean realised benefit of such edits in this run; 0 before the first."""
        return self.benefits.get(action, (0, 0.0))[1]

    def learn(self, action: Action, realised: float) -> None:
        """Add one realised benefit (nats) to the running mean of its action."""
        n, mean = self.benefits.get(action, (0, 0.0))
        self.benefits[action.value] = (n + 1, mean + (realised - mean) / (n + 1))

    def note_edit(self, action: Action, layer_id: int, step: int) -> None:
        """Remember an edit for the cooldowns of its layer and its kind."""
        layer = self.layers[layer_id]
        if action in GROWS or action in SHRINKS:
            layer.last_edits[action.value] = self.checkpoint
            layer.growth += 1 if action in GROWS else -1
        if action in (Action.SPAWN, Action.REVIVE):
            self.last_spawn_step = step

    def unnote_edit(self, action: Action, layer_id: int) -> None:
        """Take back what a rolled back edit did to the size of its layer; its cooldowns run on."""
        self.layers[layer_id].growth -= 1 if action in GROWS else -1


def due_probations(state: PolicyState, config: LifecycleConfig) -> list[Probation]:
    """Return the edits that the coming evaluation judges: those due, if it is a cycle's."""
    checkpoint = state.checkpoint + 1
    if checkpoint % config.lifecycle_eval_interval:
        return []
    return [p for p in state.probations if p.due <= checkpoint]
