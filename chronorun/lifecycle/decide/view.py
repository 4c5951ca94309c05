"""What an action's policy looks at: one layer's signals, its memory and the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action, Candidate, Metrics, Refusal, Status
from chronorun.lifecycle.decide.policy_state import LayerPolicy, PolicyState
from chronorun.lifecycle.decide.signals import LayerSignals

Proposal = tuple[Candidate, Refusal | None]
"""A candidate and, where one of its action's own limits stands against it, that limit."""


@dataclass(frozen=True)
class LayerView:
    """One layer at one cycle."""

    signals: LayerSignals
    layer: LayerPolicy
    state: PolicyState
    config: LifecycleConfig

    @property
    def step(self) -> int:
        """Training step of the checkpoint."""
        return self.signals.step

    def patience(self, action: Action, base: int) -> int:
        """Return the patience in force for an action."""
        return self.layer.patience(action, base)

    def metrics(self, action: Action, **extra: float | int | str | None) -> Metrics:
        """Return what a decision's record says of the moment it was taken."""
        s = self.signals
        return {
            "layer_entropy": s.layer_entropy,
            "layer_neff": s.layer_neff,
            "topology_debt": s.topology_debt,
            "unresolved_debt": s.unresolved_debt,
            "token_entropy_ratio": s.token_entropy_ratio,
            "num_experts": len(s.experts),
            **extra,
            "predicted_benefit": self.state.predicted_benefit(action),
        }

    def above_cap(self) -> Refusal | None:
        """Refuse growth beyond ``max_experts_per_layer``."""
        n, cap = self.signals.n_experts, self.config.max_experts_per_layer
        if n < cap:
            return None
        return Refusal(Status.blocked, f"{n} experts, max_experts_per_layer={cap}")

    def below_floor(self) -> Refusal | None:
        """Refuse shrinking below the floor of live groups."""
        n = len(self.signals.groups)
        floor = max(self.config.min_experts_per_layer, self.signals.max_top_k)
        if n > floor:
            return None
        return Refusal(
            Status.blocked,
            f"{n} groups, floor {floor} (min_experts_per_layer="
            f"{self.config.min_experts_per_layer}, top_k={self.signals.max_top_k})",
        )
