"""What the policy remembers between checkpoints: plain data that a resume and a replay carry on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from chronorun.config.lifecycle import LifecycleConfig
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
    """One layer: counters, patience multipliers and the checkpoints of the last edits, by action.

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
    """Everything that decisions depend on beside signals and configuration.

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
        return replace(
            self,
            last_split_step=dict(self.last_split_step),
            layers={
                i: replace(
                    layer,
                    multipliers=dict(layer.multipliers),
                    last_edits=dict(layer.last_edits),
                )
                for i, layer in self.layers.items()
            },
            probations=list(self.probations),
            benefits=dict(self.benefits),
            deferred=dict(self.deferred),
        )

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

    def state_dict(self) -> dict[str, Any]:
        """Return plain JSON data; loading it is exact."""
        return {
            "checkpoint": self.checkpoint,
            "next_seq": self.next_seq,
            "last_spawn_step": self.last_spawn_step,
            "last_split_step": dict(self.last_split_step),
            "layers": {
                str(i): {
                    "counters": dict(vars(layer.counters)),
                    "multipliers": dict(layer.multipliers),
                    "last_edits": dict(layer.last_edits),
                    "growth": layer.growth,
                    "entropy_ratios": list(layer.entropy_ratios),
                }
                for i, layer in self.layers.items()
            },
            "probations": [
                dict(vars(p)) | {"action": p.action.value, "experts": list(p.experts)}
                for p in self.probations
            ],
            "benefits": {action: [n, mean] for action, (n, mean) in self.benefits.items()},
            "deferred": dict(self.deferred),
        }

    @classmethod
    def from_state_dict(cls, plain: Mapping[str, Any]) -> PolicyState:
        """Rebuild a state from ``state_dict``."""
        return cls(
            checkpoint=plain["checkpoint"],
            next_seq=plain["next_seq"],
            last_spawn_step=plain["last_spawn_step"],
            last_split_step=dict(plain["last_split_step"]),
            layers={int(i): _layer(saved) for i, saved in plain["layers"].items()},
            probations=[
                Probation(
                    p["seq"], Action(p["action"]), p["layer_id"], tuple(p["experts"]), p["due"]
                )
                for p in plain["probations"]
            ],
            benefits={action: (n, mean) for action, (n, mean) in plain["benefits"].items()},
            deferred=dict(plain["deferred"]),
        )


def _layer(saved: Mapping[str, Any]) -> LayerPolicy:
    return LayerPolicy(
        counters=LayerCounters(**saved["counters"]),
        multipliers=dict(saved["multipliers"]),
        last_edits=dict(saved["last_edits"]),
        growth=saved["growth"],
        entropy_ratios=list(saved["entropy_ratios"]),
    )


def due_probations(state: PolicyState, config: LifecycleConfig) -> list[Probation]:
    """Return the edits that the coming checkpoint judges: those due, if it is a cycle's."""
    checkpoint = state.checkpoint + 1
    if checkpoint % config.lifecycle_eval_interval:
        return []
    return [p for p in state.probations if p.due <= checkpoint]
