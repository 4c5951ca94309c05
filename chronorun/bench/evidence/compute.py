"""What a run computed and how many experts it had, over its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from chronorun.analysis.reading.records import ScenarioEvent
from chronorun.analysis.reading.run import read_typed
from chronorun.bench.evidence.course import Course
from chronorun.bench.evidence.flops import Shape
from chronorun.config.model import ModelConfig

_FLOPS = ("active_flops_per_token", "executed_flops")
_PARAMETERS = ("parameter_steps", "total_parameters_final")


@dataclass(frozen=True)
class Period:
    """Steps in a row with the same experts and the same top-k of each MoE layer."""

    steps: int
    experts: list[int]
    top_k: list[int]


def compute_figures(
    events: Path, summary: Mapping[str, Any], config: Any, course: Course
) -> dict[str, float | None]:
    """Return operations, parameters and population of a run, the last weighted by steps.

    ``events`` is the log of its scenario. What is validated and probed counts as forwards of the
    mean cost in training. None where a summary lacks what a figure needs.
    """
    from omegaconf import OmegaConf

    model = OmegaConf.to_object(config.model)
    assert isinstance(model, ModelConfig)
    final = _final_population(summary, model)
    periods = list(_periods(course, model, events, int(summary["steps"]), final))
    if final is None and periods:
        final = periods[-1].experts
    figures = _population(periods, final)
    if summary.get("vocab_size") is None or not periods or final is None:
        return figures | dict.fromkeys(_FLOPS + _PARAMETERS)
    shape = Shape(model, int(summary["vocab_size"]), bool(config.router.noisy))
    per_step = config.training.batch_size * model.context_length
    held = sum(p.steps * shape.total_parameters(p.experts) for p in periods)
    figures |= {
        "parameter_steps": float(held),
        "total_parameters_final": float(shape.total_parameters(final)),
    }
    return figures | _flops(shape, periods, per_step, summary)


def _flops(
    shape: Shape, periods: list[Period], per_step: int, summary: Mapping[str, Any]
) -> dict[str, float | None]:
    steps = sum(p.steps for p in periods)
    total = sum(p.steps * shape.training_flops_per_token(p.experts, p.top_k) for p in periods)
    per_token = total / max(steps, 1)
    executed = None
    if "eval_tokens" in summary and "probe_tokens" in summary:
        # A forward alone is a third of forward and backward.
        alone = (summary["eval_tokens"] + summary["probe_tokens"]) / 3
        executed = per_token * (steps * per_step + alone)
    return {"active_flops_per_token": per_token, "executed_flops": executed}


def _population(periods: list[Period], final: list[int] | None) -> dict[str, float | None]:
    weight = sum(p.steps * len(p.experts) for p in periods)
    held = sum(p.steps * sum(p.experts) for p in periods)
    return {
        "mean_population": held / weight if weight else None,
        "final_population": sum(final) / len(final) if final else None,
    }


def _final_population(summary: Mapping[str, Any], model: ModelConfig) -> list[int] | None:
    found = summary.get("population")
    return [int(found[str(i)]) for i in range(model.num_moe_layers)] if found else None


def _periods(
    course: Course, model: ModelConfig, events: Path, steps: int, final: list[int] | None
) -> Iterator[Period]:
    began_with = [model.num_experts] * model.num_moe_layers
    windows = course.populations()
    if not windows and final in (None, began_with):
        # Without telemetry a run has no lifecycle: what it ends with it had all along.
        windows = [(steps, began_with)]
    changes = _top_k_changes(events, model)
    start = 0
    for n, experts in windows:
        stop = start + n
        cuts = sorted({start, stop, *(s for s in changes if start < s < stop)})
        for a, b in pairwise(cuts):
            yield Period(b - a, experts, changes[max(s for s in changes if s <= a)])
        start = stop


def _top_k_changes(events: Path, model: ModelConfig) -> dict[int, list[int]]:
    """Return the top-k of each layer by the step from which on it is in force.

    The top-k at the end of a stress is the run's initial top-k.
    """
    records = list(read_typed(events, ScenarioEvent)) if events.is_file() else []
    current = [model.top_k] * model.num_moe_layers
    for record in reversed([r for r in records if r.event == "end"]):
        current = _with(current, record)
    changes = {0: current}
    for record in records:
        if record.top_k is not None and record.step is not None:
            current = _with(current, record)
            changes[record.step] = current
    return changes


def _with(top_k: list[int], event: ScenarioEvent) -> list[int]:
    if event.top_k is None:
        return top_k
    return [event.top_k if i in event.layers else k for i, k in enumerate(top_k)]
