"""State changes of experts that need no decision: they follow from the evaluations that pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState


def tick(registry: Registry, layer_id: int) -> None:
    """Count one more evaluation for every live expert of a layer."""
    for record in registry.live(layer_id):
        record.checkpoints_in_state += 1


def settle(
    registry: Registry,
    layer_id: int,
    shares: Sequence[float],
    ramping: Collection[str],
    step: int,
    cooling_period: int,
) -> None:
    """Move a layer's experts on: cooled down, fallen out of use, in use again.

    Exclusive twins go on cooling until they are released, and their members, who share one place in
    the routing, do not fall dormant one by one. Neither does an expert whose ramp still runs.
    """
    twins = {*registry.twins, *registry.twins.values()}
    for record, share in zip(registry.live(layer_id), shares, strict=True):
        name = record.expert_id
        if record.state is ExpertState.cooling:
            if record.checkpoints_in_state >= cooling_period and name not in twins:
                registry.transition(name, ExpertState.active, step, "cooling over")
        elif record.state is ExpertState.dormant and share > 0.0:
            registry.transition(name, ExpertState.active, step, "share again")
        elif record.state is ExpertState.active and share == 0.0 and name not in {*twins, *ramping}:
            registry.transition(name, ExpertState.dormant, step, "no share")
