"""Stress injected into a training run (group ``scenario``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option


class ScenarioKind(Enum):
    """Kinds of stress."""

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
"""Scenarios that set the top-k of the layers they stress: (without stress, under stress)."""


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
        150,
        "first step under stress; of planted_*: the step of the plant",
        unit="steps",
        at_least=0,
    )
    duration: int = option(
        100,
        "steps under stress (collapse has its own from the severity; bad_edit: at most)",
        unit="steps",
        at_least=1,
    )
    layer: int = option(0, "MoE layer under stress (-1: all)", at_least=-1)
    expert: int = option(0, "expert under stress, as its slot at the start of the run", at_least=0)
    severity: Severity = option(Severity.moderate, "how hard collapse concentrates the routing")
    noise: float = option(
        1.0,
        "noise of corrupted_expert and bad_edit, relative to the RMS of the expert's output",
        above=0.0,
    )
    shift_from: str = option("prose", "domain before domain_shift")
    shift_to: str = option("code", "domain after domain_shift")
    shift_back: bool = option(False, "return to the first domain after duration, for domain_shift")

    def __post_init__(self) -> None:
        check_ranges(self, "scenario")
