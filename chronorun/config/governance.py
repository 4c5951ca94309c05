"""The controller, which steers routing through the lens (group ``governance``)."""

from __future__ import annotations

from dataclasses import dataclass

from chronorun.config.fields import check_ranges, option


@dataclass
class ControlConfig:
    """The controller's numbers, by the names of ChronoMoEv2 0.2.0.

    One differs from v2: ``mode_switch_threshold`` lies above the lowest score of a mode (0.2), so
    that a mode that keeps doing harm is abandoned.
    """

    neff_threshold_ratio: float = option(
        0.6, "share of the experts below which n_effective counts as debt", above=0.0, at_most=1.0
    )
    top2_warning: float = option(
        0.75, "top-2 share above which it counts as debt", at_least=0.0, below=1.0
    )
    debt_weight_neff: float = option(0.4, "weight of a small n_effective in the debt", at_least=0.0)
    debt_weight_top2: float = option(0.4, "weight of a large top-2 share in the debt", at_least=0.0)
    debt_weight_dead: float = option(0.2, "weight of dead experts in the debt", at_least=0.0)
    pressure_ema_alpha: float = option(
        0.2, "weight of the newest debt in the pressure's moving average", above=0.0, at_most=1.0
    )
    heat_gain: float = option(1.0, "heat per unit of pressure", at_least=0.0)
    forgetting_base: float = option(0.02, "forgetting without pressure", at_least=0.0)
    forgetting_gain: float = option(0.10, "forgetting per unit of pressure", at_least=0.0)
    harm_top2_threshold: float = option(
        0.02, "change of the top-2 share that counts as harm or as help", at_least=0.0
    )
    mode_switch_threshold: float = option(
        0.25, "score below which a mode gives way to another", above=0.2, at_most=1.0
    )
    emergency_top2_threshold: float = option(
        0.90, "top-2 share above which an emergency quota is computed", at_least=0.0, at_most=1.0
    )
    abstain_backoff_threshold: float = option(
        0.15, "harm_backoff below which the controller abstains", at_least=0.0, at_most=1.0
    )
    abstain_pressure_threshold: float = option(
        0.01, "pressure below which the controller abstains", at_least=0.0, at_most=1.0
    )
    prior_hurt_threshold: float = option(
        -0.5,
        "helped EMA of a prior below which the controller abstains",
        at_least=-1.0,
        at_most=1.0,
    )
    lens_pressure_coeff: float = option(1.0, "lens scale per unit of pressure", at_least=0.0)
    lens_heat_coeff: float = option(0.0, "lens scale per unit of heat", at_least=0.0)
    pressure_cap: float = option(0.5, "largest pressure that counts", at_least=0.0)
    lens_warmup_steps: int = option(
        100, "steps for which the small scale limit holds", unit="steps", at_least=0
    )
    lens_warmup_scale: float = option(0.02, "scale limit during the lens's warm-up", at_least=0.0)
    lens_scale_max: float = option(0.5, "scale limit after the lens's warm-up", at_least=0.0)

    def __post_init__(self) -> None:
        check_ranges(self, "governance")


@dataclass
class GovernanceConfig(ControlConfig):
    """The controller of the routing, and what it starts with."""

    enabled: bool = option(True, "let the controller steer through the lens", fixed_in_replay=True)
    priors_from: str | None = option(
        None,
        "run folder (or priors file) whose experience this run starts with",
        fixed_in_replay=True,
    )
    lens_rank: int = option(8, "rank of the lens's low-rank residual", at_least=1, limit=65_536)
