"""Stress injected into a training run (group ``scenario``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option


class ScenarioKind(Enum):
    """What is injected."""

    none = "none"
    collapse = "collapse"
    dead_expert = "dead_expert"
    corrupted_expert = "corrupted_expert"
    domain_shift = "domain_shift"
    capacity_whiplash = "capacity_whiplash"
    planted_redundancy = "planted_redundancy"
    planted_two_mode = "planted_two_mode"
    bad_edit = "bad_edit"


SETS_TOP_K = {ScenarioKind.capacity_whiplash: (2, 1)}
"""Scenarios that set the top-k of the layers under stress: without stress, and with it."""


class Severity(Enum):
    """How hard routing is concentrated by ``collapse``."""

    mild = "mild"
    moderate = "moderate"
    severe = "severe"
    catastrophic = "catastrophic"


@dataclass
class ScenarioConfig:
    """Which stress, when and where."""

    kind: ScenarioKind = option(ScenarioKind.none, "stress to inject")
    start_step: int = option(
        150, "first stressed step; planted_*: step of the plant", unit="steps", at_least=0
    )
    duration: int = option(
        100,
        "stressed steps (collapse takes its own from the severity; bad_edit: at most)",
        unit="steps",
        at_least=1,
    )
    layer: int = option(0, "MoE layer under stress (-1: every layer)", at_least=-1)
    expert: int = option(0, "expert under stress, by its slot at the start of the run", at_least=0)
    severity: Severity = option(Severity.moderate, "severity of collapse")
    noise: float = option(
        1.0, "corrupted_expert, bad_edit: noise over the RMS of the expert's output", above=0.0
    )
    shift_from: str = option("prose", "domain_shift: domain before the shift")
    shift_to: str = option("code", "domain_shift: domain after the shift")
    shift_back: bool = option(False, "domain_shift: return to the first domain after duration")

    def __post_init__(self) -> None:
        check_ranges(self, "scenario")
