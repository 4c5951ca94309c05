"""SPAWN and REVIVE: a layer that has been starving for experts gets one.

A healthy, balanced layer has a high entropy of its *load*, which is no sign of starvation. A layer
starves where its router hardly prefers any expert for a token, or where assignments overflow
although no expert is idle (see ``counters.is_starving``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chronorun.config.lifecycle import CrossLayer, LifecycleConfig, SpawnInit
from chronorun.lifecycle.decide.actions import Action, Candidate, Refusal, Status
from chronorun.lifecycle.decide.counters import is_undecided, spawn_overflow
from chronorun.lifecycle.decide.policy_state import PolicyState
from chronorun.lifecycle.decide.signals import ArchiveMatch
from chronorun.lifecycle.decide.view import LayerView, Proposal

DECIDED_BY = (
    "spawn_patience",
    "spawn_entropy_threshold",
    "spawn_entropy_drop",
    "spawn_overflow_threshold",
    "spawn_cooldown_steps",
    "max_spawns_per_cycle",
    "max_experts_per_layer",
    "spawn_init_strategy",
    "revive_overlap_threshold",
)


def propose(view: LayerView) -> Iterator[Proposal]:
    """Yield a birth for a layer that has starved for ``spawn_patience`` checkpoints.

    An archived expert whose tokens are the ones that starve now comes back instead.
    """
    match = _archived_match(view)
    action = Action.REVIVE if match is not None else Action.SPAWN
    if match is None and not view.config.spawn_enabled:
        return
    held = view.layer.counters.starvation
    if held < view.patience(action, view.config.spawn_patience):
        return
    yield _candidate(view, action, match, held), view.above_cap() or _cooldown(view)


def _candidate(view: LayerView, action: Action, match: ArchiveMatch | None, held: int) -> Candidate:
    s, config = view.signals, view.config
    metrics = view.metrics(
        action,
        starvation_duration=held,
        starved_by="undecided" if is_undecided(s, config) else "saturated",
        overflow=spawn_overflow(s, config),
        archive_overlap=None if match is None else match.overlap,
    )
    cluster = () if match is not None else _sources(s.cluster, config.spawn_init_strategy)
    cloned = config.spawn_init_strategy is SpawnInit.clone_and_perturb
    return Candidate(
        action,
        s.layer_id,
        s.next_expert_id if match is None else match.expert_id,
        "sustained_starvation",
        held,
        parent_id=cluster[0] if cloned and cluster else None,
        cluster=cluster,
        metrics=metrics,
        decided_by=DECIDED_BY,
    )


def _sources(cluster: Sequence[str], strategy: SpawnInit) -> tuple[str, ...]:
    """Return the experts that a newborn is made of; the cluster opens with the most loaded one."""
    if strategy is SpawnInit.mean_cluster:
        return tuple(cluster)
    return tuple(cluster[:1]) if strategy is SpawnInit.clone_and_perturb else ()


def _archived_match(view: LayerView) -> ArchiveMatch | None:
    if not view.config.revive_enabled:
        return None
    fits = [
        m for m in view.signals.archive_matches if m.overlap >= view.config.revive_overlap_threshold
    ]
    return max(fits, key=lambda m: m.overlap, default=None)


def _cooldown(view: LayerView) -> Refusal | None:
    last, wait = view.state.last_spawn_step, view.config.spawn_cooldown_steps
    if last is None or view.step - last >= wait:
        return None
    return Refusal(Status.deferred, f"spawn_cooldown_steps={wait}, spawned at step {last}")


def rank(
    proposals: Sequence[Proposal], state: PolicyState, config: LifecycleConfig
) -> list[Proposal]:
    """Order starving layers: most unresolved debt, then longest starvation, then lowest layer.

    Debt ranks, it is no condition: a balanced layer that starves has none. With
    ``cross_layer=depth_balance`` the neighbours of layers that grew come first.
    """

    def neighbours_grown(layer_id: int) -> int:
        if config.cross_layer is CrossLayer.none:
            return 0
        near = (state.layers.get(layer_id - 1), state.layers.get(layer_id + 1))
        return sum(max(0, layer.growth) for layer in near if layer is not None)

    def order(proposal: Proposal) -> tuple[float, float, int, int]:
        c = proposal[0]
        debt = c.metrics["unresolved_debt"]
        assert isinstance(debt, float | int)
        return -neighbours_grown(c.layer_id), -debt, -c.held, c.layer_id

    return sorted(proposals, key=order)
