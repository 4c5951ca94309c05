"""Stress injected into a real training run.

What is in force is a pure function of the step, or of what a checkpoint remembers, so that a
resumed run is stressed exactly as one never stopped. What starts, ends and is planted is logged in
``scenario_events.jsonl``: detection is scored against it. Edits of the population move experts from
slot to slot; a scenario follows an expert by its id, ``L{layer}_E{scenario.expert}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chronorun.config.run import RunConfig
from chronorun.config.scenario import ScenarioKind
from chronorun.data import TokenizedCorpus
from chronorun.errors import UserError
from chronorun.model import GPT
from chronorun.training.scenarios.bad_edit import BadEdit
from chronorun.training.scenarios.base import Scenario, Setting
from chronorun.training.scenarios.planted import PlantedRedundancy, PlantedTwoMode
from chronorun.training.scenarios.stresses import (
    CapacityWhiplash,
    Collapse,
    CorruptedExpert,
    DeadExpert,
    DomainShift,
    force_routing,
)

if TYPE_CHECKING:
    from chronorun.training.heartbeat import Heartbeat

__all__ = ["Scenario", "build_scenario", "force_routing"]

_KINDS: dict[ScenarioKind, type[Scenario]] = {
    ScenarioKind.none: Scenario,
    ScenarioKind.collapse: Collapse,
    ScenarioKind.dead_expert: DeadExpert,
    ScenarioKind.corrupted_expert: CorruptedExpert,
    ScenarioKind.domain_shift: DomainShift,
    ScenarioKind.capacity_whiplash: CapacityWhiplash,
    ScenarioKind.planted_redundancy: PlantedRedundancy,
    ScenarioKind.planted_two_mode: PlantedTwoMode,
    ScenarioKind.bad_edit: BadEdit,
}


def _check_windows(corpus: TokenizedCorpus, domain: str, min_tokens: int) -> None:
    for split in ("train", "val", "probe"):
        found = len(corpus.split(split).domain_tokens(domain))
        if found < min_tokens:
            raise UserError(
                f"scenario: domain {domain} has {found} tokens in the {split} split, expected at "
                f"least {min_tokens} (one context and the next token); choose another domain or "
                f"lower model.context_length"
            )


def build_scenario(
    run: RunConfig,
    model: GPT,
    corpus: TokenizedCorpus,
    heartbeat: Heartbeat | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Scenario:
    """Return the scenario of a run. Raises UserError where it does not fit the model or corpus.

    ``heartbeat`` knows where experts are when a lifecycle moves them; a plant also edits the
    ``optimizer``'s moments, the heartbeat's recorder and its lenses.
    """
    config = run.scenario
    if config.kind is ScenarioKind.domain_shift:
        for domain in (config.shift_from, config.shift_to):
            _check_windows(corpus, domain, run.model.context_length + 1)
    if config.kind is not ScenarioKind.none and config.start_step >= run.training.max_steps:
        raise UserError(
            f"scenario: scenario.start_step={config.start_step}, expected < "
            f"training.max_steps={run.training.max_steps}; the stress would never come"
        )
    if config.kind is ScenarioKind.collapse and not run.telemetry.enabled:
        raise UserError(
            "scenario: telemetry.enabled=False, expected True for scenario=collapse, which "
            "measures the recovery with it; drop telemetry=off"
        )
    return _KINDS[config.kind](Setting(run, model, heartbeat, optimizer))
