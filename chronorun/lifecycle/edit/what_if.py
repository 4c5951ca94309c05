"""What the probe is asked at an evaluation: was an edit worth it, and is an expert broken."""

from __future__ import annotations

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.policy_state import PolicyState, due_probations
from chronorun.lifecycle.decide.signals import ProbationReading
from chronorun.lifecycle.edit.population import Population
from chronorun.lifecycle.edit.undo import judge_by_probe, leave_one_out

MOST_SUSPECTS = 2
"""Experts left out in trials at one evaluation: each costs a forward of the probe."""

Answers = tuple[dict[int, list[ProbationReading]], dict[str, float]]
"""Readings by layer of the edits that are due, and by expert what leaving it out gains (nats)."""


def ask_probe(
    population: Population, policy: PolicyState, config: LifecycleConfig, step: int
) -> Answers:
    """Ask the probe about edits at the end of their probation, and about suspicious experts."""
    probe, surgeon, ledger = population.probe, population.surgeon, population.ledger
    due = [ledger.undo[p.seq] for p in due_probations(policy, config) if p.seq in ledger.undo]
    suspects = _suspects(population, config)
    if probe is None or not (due or suspects):
        return {}, {}
    loss = population.releases.take_loss()
    if loss is None:
        loss = probe(step)
    readings: dict[int, list[ProbationReading]] = {}
    for undo in due:
        reading = judge_by_probe(surgeon, probe, step, loss, undo, config.harm_tolerance)
        if reading is not None:
            readings.setdefault(undo.layer_id, []).append(reading)
    gains = {}
    for layer_id, slot in suspects:
        without = leave_one_out(surgeon, probe, step, layer_id, slot)
        if without is not None:
            gains[ledger.registry.slots(layer_id)[slot]] = loss - without
    return readings, gains


def _suspects(population: Population, config: LifecycleConfig) -> list[tuple[int, int]]:
    """Return (layer, slot) of the experts worth a trial without them: the gradients say so."""
    found = []
    for layer_id in population.registry.layers():
        contributions = population.tap.contributions(layer_id)
        if contributions:
            worst = max(contributions)
            if worst > config.suspect_loss_tolerance:
                found.append((worst, layer_id, contributions.index(worst)))
    found.sort(reverse=True)
    return [(layer_id, slot) for _, layer_id, slot in found[:MOST_SUSPECTS]]
