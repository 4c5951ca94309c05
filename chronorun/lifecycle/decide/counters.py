"""How many evaluations in a row each condition has held: each patience is compared with these."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from chronorun.config.lifecycle import LifecycleConfig, TwoModeUse
from chronorun.lifecycle.decide.signals import ExpertSignals, LayerSignals, PairSignals
from chronorun.lifecycle.experts.states import ExpertState


@dataclass
class LayerCounters:
    """Consecutive evaluations, by expert id or pair (``pair_key``); what is absent counts 0.

    ``since_lens`` counts evaluations since the lens last acted during a dormancy,
    ``lens_deferrals`` those on which such an attempt put off a prune that was due.
    """

    starvation: int = 0
    dormancy: dict[str, int] = field(default_factory=dict)
    since_lens: dict[str, int] = field(default_factory=dict)
    lens_deferrals: dict[str, int] = field(default_factory=dict)
    overload: dict[str, int] = field(default_factory=dict)
    convergence: dict[str, int] = field(default_factory=dict)
    suspicion: dict[str, int] = field(default_factory=dict)


def pair_key(first: str, second: str) -> str:
    """Return the name of an unordered pair."""
    return "|".join(sorted((first, second), key=expert_order))


def expert_order(expert_id: str) -> tuple[int, str]:
    """Sort key of ids: L0_E9 comes before L0_E10."""
    return len(expert_id), expert_id


def update_counters(
    counters: LayerCounters,
    signals: LayerSignals,
    config: LifecycleConfig,
    on_probation: Collection[str] = (),
    prune_patience: int | None = None,
    deciding: bool = False,
) -> LayerCounters:
    """Return the counters after one more evaluation.

    A window without tokens says nothing and changes nothing. ``prune_patience`` is the one in force
    in this layer (harm may have raised it): only from there on does the lens defer anything.
    """
    if signals.dispatched == 0:
        return counters
    patience = config.prune_patience if prune_patience is None else prune_patience
    dormant = [e.expert_id for e in signals.experts if e.state is ExpertState.dormant]
    dormancy = _advance(counters.dormancy, dormant)
    since = _since_lens(counters, signals, dormant)
    return LayerCounters(
        starvation=counters.starvation + 1 if is_starving(signals, config, deciding) else 0,
        dormancy=dormancy,
        since_lens=since,
        lens_deferrals={
            i: n
            for i in dormant
            if (
                n := counters.lens_deferrals.get(i, 0)
                + (dormancy[i] >= patience and is_recent_attempt(since.get(i), config))
            )
        },
        overload=_advance(
            counters.overload,
            (e.expert_id for e in signals.settled() if is_overloaded(e, signals, config)),
        ),
        convergence=_advance(counters.convergence, converged_pairs(signals, config, on_probation)),
        suspicion=_advance(
            counters.suspicion,
            (e.expert_id for e in signals.experts if is_suspect(e, config)),
        ),
    )


def _advance(counts: dict[str, int], holding: Iterable[str]) -> dict[str, int]:
    return {key: counts.get(key, 0) + 1 for key in holding}


def _since_lens(
    counters: LayerCounters, signals: LayerSignals, dormant: Iterable[str]
) -> dict[str, int]:
    if signals.lens_scale > 0.0:
        return dict.fromkeys(dormant, 0)
    return {i: counters.since_lens[i] + 1 for i in dormant if i in counters.since_lens}


def is_recent_attempt(since_lens: int | None, config: LifecycleConfig) -> bool:
    """Return whether the lens acted so recently that its effect is still awaited."""
    return since_lens is not None and since_lens < config.prune_lens_grace


def is_overloaded(expert: ExpertSignals, signals: LayerSignals, config: LifecycleConfig) -> bool:
    """Return whether an expert takes more of the newest window than one expert should."""
    two_modes = (
        expert.two_mode_score is not None
        and expert.two_mode_score >= config.split_two_mode_threshold
    )
    if config.split_two_mode is TwoModeUse.require and not two_modes:
        return False
    if config.split_two_mode is TwoModeUse.add and two_modes and expert.share > 0.0:
        return True
    return is_hog(expert, signals, config)


def is_hog(expert: ExpertSignals, signals: LayerSignals, config: LifecycleConfig) -> bool:
    """Return whether an expert's share alone marks it as overloaded."""
    n, ratio = len(signals.groups), config.split_share_ratio
    relative = expert.share * n
    over = expert.share > config.split_share_threshold or (ratio is not None and relative > ratio)
    # In a layer of two the even share alone is above the default threshold.
    return over and (n > 2 or relative >= config.split_pair_ratio)


def is_starving(signals: LayerSignals, config: LifecycleConfig, deciding: bool = False) -> bool:
    """Return whether a layer lacks experts: its router stays undecided, or its top-k is saturated.

    ``deciding``: see ``is_deciding``.
    """
    undecided = is_undecided(signals, config) and not deciding
    return undecided or is_saturated(signals, config)


def is_deciding(ratios: Sequence[float], config: LifecycleConfig) -> bool:
    """Return whether a router is still making up its mind by itself.

    ``ratios`` are the newest of the entropy per token over ln n, oldest first. Young routers are
    undecided by nature: one whose entropy has fallen within the patience needs time, no expert.
    """
    return len(ratios) > 1 and ratios[0] - ratios[-1] > config.spawn_entropy_drop


def is_undecided(signals: LayerSignals, config: LifecycleConfig) -> bool:
    """Return whether the router hardly prefers any expert for a token.

    This is entropy per token. Entropy of the load is high in a healthy, balanced layer.
    """
    return len(signals.groups) > 1 and signals.token_entropy_ratio >= config.spawn_entropy_threshold


def is_saturated(signals: LayerSignals, config: LifecycleConfig) -> bool:
    """Return whether assignments overflow although no expert is idle.

    What overflows at experts that qualify for a split is a split's business, not a spawn's.
    """
    if any(e.state is ExpertState.dormant for e in signals.experts):
        return False
    return spawn_overflow(signals, config) >= config.spawn_overflow_threshold


def spawn_overflow(signals: LayerSignals, config: LifecycleConfig) -> float:
    """Return the overflow of the experts that do not qualify for a split."""
    able = config.split_enabled
    return sum(
        e.overflow for e in signals.experts if not (able and is_overloaded(e, signals, config))
    )


def converged_pairs(
    signals: LayerSignals, config: LifecycleConfig, on_probation: Collection[str]
) -> list[str]:
    """Return the keys of pairs that are alike in weights and in tokens and may be judged."""
    settled = {e.expert_id for e in signals.settled(on_probation)}
    return [
        pair_key(p.first, p.second)
        for p in signals.pairs
        if p.first in settled and p.second in settled and has_converged(p, config)
    ]


def has_converged(pair: PairSignals, config: LifecycleConfig) -> bool:
    """Return whether both thresholds of a merge are exceeded."""
    return (
        pair.cosine > config.merge_similarity_threshold
        and pair.overlap > config.merge_overlap_threshold
    )


def is_suspect(expert: ExpertSignals, config: LifecycleConfig) -> bool:
    """Return whether an expert looks broken.

    It is better left out, or its weights jumped, or its output harms the tokens that it serves. The
    last is for what a router avoids before the first shows: a broken expert soon serves so few
    tokens that leaving it out changes little.
    """
    gain, deviation = expert.leave_one_out_gain, expert.weight_deviation
    return (
        (gain is not None and gain > config.suspect_loss_tolerance)
        or (deviation is not None and deviation > config.suspect_deviations)
        or certain_harm(expert) > config.suspect_token_harm
    )


def certain_harm(expert: ExpertSignals) -> float:
    """Return the harm per token served (nats) that is certain: the mean less 3 standard errors."""
    if expert.token_harm is None or expert.token_harm_error is None:
        return 0.0
    return expert.token_harm - 3.0 * expert.token_harm_error
