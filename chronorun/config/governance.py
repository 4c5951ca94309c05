"""Soft control of routing: every number of the controller (group ``governance``)."""

from __future__ import annotations

from dataclasses import dataclass

from chronorun.config.fields import check_ranges, option


@dataclass
class ControlConfig:
    """The controller's numbers, by the names of ChronoMoEv2 0.2.0.

    One differs from v2: ``mode_switch_threshold`` lies above the floor of a mode's score (0.2), so
    that a mode that keeps doing harm is really given up.
    """

    neff_threshold_ratio: float = option(
        0.6, "n_effective below this share of the experts is debt", above=0.0, at_most=1.0
    )
    top2_warning: float = option(0.75, "top-2 share above this is debt", at_least=0.0, below=1.0)
    debt_weight_neff: float = option(0.4, "weight of few effective experts", at_least=0.0)
    debt_weight_top2: float = option(0.4, "weight of a large top-2 share", at_least=0.0)
    debt_weight_dead: float = option(0.2, "weight of dead experts", at_least=0.0)
    pressure_ema_alpha: float = option(
        0.2, "weight of the newest debt in pressure", above=0.0, at_most=1.0
    )
    heat_gain: float = option(1.0, "heat per unit of pressure", at_least=0.0)
    forgetting_base: float = option(0.02, "forgetting without pressure", at_least=0.0)
    forgetting_gain: float = option(0.10, "forgetting per unit of pressure", at_least=0.0)
    harm_top2_threshold: float = option(
        0.02, "change of top-2 share that counts as harm or help", at_least=0.0
    )
    mode_switch_threshold: float = option(
        0.25, "a mode whose score falls below this gives way", above=0.2, at_most=1.0
    )
    emergency_top2_threshold: float = option(
        0.90, "top-2 share above which an emergency quota is computed", at_least=0.0, at_most=1.0
    )
    abstain_backoff_threshold: float = option(
        0.15, "abstain while harm_backoff is below this", at_least=0.0, at_most=1.0
    )
    abstain_pressure_threshold: float = option(
        0.01, "abstain while pressure is below this", at_least=0.0, at_most=1.0
    )
    prior_hurt_threshold: float = option(
        -0.5, "abstain where a prior's helped EMA is below this", at_least=-1.0, at_most=1.0
    )
    lens_pressure_coeff: float = option(1.0, "lens scale per unit of pressure", at_least=0.0)
    lens_heat_coeff: float = option(0.0, "lens scale per unit of heat", at_least=0.0)
    pressure_cap: float = option(0.5, "pressure counted at most", at_least=0.0)
    lens_warmup_steps: int = option(
        100, "steps with the small scale limit", unit="steps", at_least=0
    )
    lens_warmup_scale: float = option(0.02, "scale limit during the warm-up", at_least=0.0)
    lens_scale_max: float = option(0.5, "scale limit afterwards", at_least=0.0)

    def __post_init__(self) -> None:
        check_ranges(self, "governance")


@dataclass
class GovernanceConfig(ControlConfig):
    """The controller's numbers, whether it acts, and what it starts from."""

    enabled: bool = option(True, "let the controller steer through the lens")
    priors_from: str | None = option(
        None, "run folder (or priors file) whose experience this run starts from"
    )
    lens_rank: int = option(8, "rank of the lens's low-rank residual", at_least=1, limit=65_536)
