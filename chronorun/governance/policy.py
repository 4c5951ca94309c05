"""The controller's policy: debt, pressure, backoff, mode and lens scale, as pure arithmetic.

Formulas and numbers are ChronoMoEv2 0.2.0's. No torch here: replay reads decisions without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from chronorun.config.governance import ControlConfig as ControlConfig

MODES = ("anti_dominance", "entropy_max", "lift_tail")
MODE_SCORE_FLOOR = 0.2
ACTING_SCALE = 0.01
"""A lens scale above this counts as an intervention when its effect is judged."""


class RoutedLayer(Protocol):
    """What the policy reads of a LayerSnapshot."""

    layer_id: int
    utilization_shares: list[float]
    dead_expert_count: int
    n_effective: float
    top2_share: float


class Prior(Protocol):
    """What the policy reads of a layer's prior."""

    fragility: float
    scale_cap: float | None
    intervention_helped_ema: float


@dataclass
class ControlState:
    """What the controller remembers of one layer."""

    layer_id: int
    n_experts: int
    pressure: float = 0.0
    heat: float = 0.0
    forgetting: float = 0.02
    collapse_score: float = 0.0
    harm_backoff: float = 1.0
    intervention_helped_ema: float = 0.0
    prev_top2: float | None = None
    prev_scale: float = 0.0
    active_mode: str = "anti_dominance"
    mode_scores: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MODES, 1.0))
    abstain: bool = True
    abstain_reason: str | None = "no_pressure"
    last_update_step: int = 0
    dominant: list[int] | None = None
    quota: dict[int, float] | None = None


def _clip(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def compute_topology_debt(
    layer: RoutedLayer, config: ControlConfig
) -> tuple[float, dict[str, float]]:
    """Return (debt in [0, 1] for weights that sum to 1, its components in [0, 1])."""
    n = len(layer.utilization_shares)
    wanted = config.neff_threshold_ratio * n
    warning = config.top2_warning
    parts = {
        "debt_neff": _clip((wanted - layer.n_effective) / wanted, 0.0, 1.0) if n else 0.0,
        "debt_top2": _clip((layer.top2_share - warning) / (1.0 - warning), 0.0, 1.0),
        "debt_dead": _clip(layer.dead_expert_count / max(1, n - 1), 0.0, 1.0),
    }
    debt = (
        config.debt_weight_neff * parts["debt_neff"]
        + config.debt_weight_top2 * parts["debt_top2"]
        + config.debt_weight_dead * parts["debt_dead"]
    )
    return debt, parts


def update_control_state(
    state: ControlState,
    layer: RoutedLayer,
    config: ControlConfig,
    step: int,
    prior: Prior | None = None,
) -> ControlState:
    """Take one snapshot of the layer into account; mutates and returns ``state``.

    The population may have changed since the last update: ``n_experts`` follows the snapshot. Top-2
    shares of two populations do not compare (2/8 and 2/4 are both even), so such a change counts
    neither as harm nor as help.
    """
    if state.n_experts != len(layer.utilization_shares):
        state.n_experts, state.prev_top2 = len(layer.utilization_shares), None
    _judge_last_intervention(state, layer.top2_share, config)
    if state.mode_scores[state.active_mode] < config.mode_switch_threshold:
        others = [mode for mode in state.mode_scores if mode != state.active_mode]
        state.active_mode = max(others, key=lambda mode: state.mode_scores[mode])
    debt, _ = compute_topology_debt(layer, config)
    alpha = config.pressure_ema_alpha
    state.pressure = (1.0 - alpha) * state.pressure + alpha * debt
    state.collapse_score = debt
    state.heat = _clip(config.heat_gain * state.pressure, 0.0, 1.0)
    state.forgetting = config.forgetting_base + config.forgetting_gain * state.pressure
    _set_quota(state, layer, config)
    state.prev_top2 = layer.top2_share
    state.last_update_step = step
    return state


def _judge_last_intervention(state: ControlState, top2: float, config: ControlConfig) -> None:
    acted = state.prev_scale > ACTING_SCALE
    delta = 0.0 if state.prev_top2 is None else top2 - state.prev_top2
    mode, scores = state.active_mode, state.mode_scores
    if acted and delta > config.harm_top2_threshold:
        state.harm_backoff *= 0.5
        scores[mode] = max(MODE_SCORE_FLOOR, scores[mode] - 0.3)
        state.intervention_helped_ema = 0.8 * state.intervention_helped_ema - 0.2
    else:
        state.harm_backoff += 0.2 * (1.0 - state.harm_backoff)
        if acted and delta < -config.harm_top2_threshold:
            scores[mode] = min(1.0, scores[mode] + 0.1)
            state.intervention_helped_ema = 0.8 * state.intervention_helped_ema + 0.2
        elif acted:
            scores[mode] = min(1.0, scores[mode] + 0.05)
    state.harm_backoff = _clip(state.harm_backoff, 0.1, 1.0)


def _set_quota(state: ControlState, layer: RoutedLayer, config: ControlConfig) -> None:
    """Compute the emergency quota. It is reported, not enforced."""
    if layer.top2_share <= config.emergency_top2_threshold and layer.dead_expert_count == 0:
        state.dominant = state.quota = None
        return
    shares = [float(share) for share in layer.utilization_shares]
    state.dominant = sorted(range(len(shares)), key=lambda e: -shares[e])[:2]
    state.quota = {e: 1.0 / len(shares) if e in state.dominant else 1.0 for e in range(len(shares))}


def compute_lens_scale(
    state: ControlState, config: ControlConfig, step: int = 0, prior: Prior | None = None
) -> float:
    """Return the lens scale to use from now on; 0 with a reason where it abstains.

    Stores the result in ``prev_scale`` and the verdict in ``abstain`` and ``abstain_reason``.
    """
    state.abstain_reason = _reason_to_abstain(state, config, prior)
    state.abstain = state.abstain_reason is not None
    state.prev_scale = 0.0
    if state.abstain:
        return 0.0
    limit = config.lens_warmup_scale
    if step >= config.lens_warmup_steps:
        limit = config.lens_scale_max
        if prior is not None and prior.scale_cap is not None:
            limit = min(limit, prior.scale_cap)
    raw = config.lens_pressure_coeff * min(state.pressure, config.pressure_cap)
    raw += config.lens_heat_coeff * state.heat
    fragility = 1.0 if prior is None else prior.fragility
    state.prev_scale = _clip(raw, 0.0, limit) * state.harm_backoff * fragility
    return state.prev_scale


def _reason_to_abstain(
    state: ControlState, config: ControlConfig, prior: Prior | None
) -> str | None:
    if state.harm_backoff < config.abstain_backoff_threshold:
        return "harm_backoff"
    if state.pressure < config.abstain_pressure_threshold:
        return "no_pressure"
    if prior is not None and prior.intervention_helped_ema < config.prior_hurt_threshold:
        return "prior_intervention_hurts"
    return None
