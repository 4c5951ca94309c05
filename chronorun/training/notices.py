"""Notices before a run starts, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from chronorun.config.run import RunConfig
from chronorun.config.scenario import ScenarioKind
from chronorun.core.run_files import CONFIG
from chronorun.training.schedule import learning_rate

JUMP = 0.05
"""Relative change of the learning rate that is worth a notice."""


def start_notices(
    config: RunConfig, first_step: int = 0, planned_steps: int | None = None
) -> Iterator[str]:
    """Yield the notices of a run that goes on with step ``first_step`` (counted from 0).

    ``planned_steps`` is the length that its schedule had until now, if it had any.
    """
    steps = config.training.max_steps
    if first_step >= steps:
        return
    if planned_steps is not None and planned_steps != steps:
        yield from _jump(config, first_step, planned_steps)
    warmup = config.optimizer.warmup_steps
    if warmup > steps:
        reached = learning_rate(steps - 1, config.optimizer, steps) / config.optimizer.lr
        yield (
            f"optimizer.warmup_steps={warmup} is longer than the run of {steps} steps: the "
            f"learning rate gets to {reached:.0%} of optimizer.lr; lower optimizer.warmup_steps"
        )
    limited = (
        config.router.capacity_factor is not None
        or config.scenario.kind is ScenarioKind.capacity_whiplash
    )
    if limited and config.training.grad_accum_steps > 1:
        yield (
            f"the capacity factor limits each of the training.grad_accum_steps="
            f"{config.training.grad_accum_steps} micro-batches by itself: what it drops is not "
            f"what it would drop of the whole batch"
        )


def _jump(config: RunConfig, step: int, planned: int) -> Iterator[str]:
    steps = config.training.max_steps
    old = learning_rate(step, config.optimizer, planned)
    new = learning_rate(step, config.optimizer, steps)
    if abs(new - old) > JUMP * old:
        yield (
            f"the learning rate jumps from {old:.3g} to {new:.3g} at step {step}: the schedule "
            f"now ends at training.max_steps={steps}, not at {planned}"
        )


def planned_steps(run_dir: Path) -> int | None:
    """Return ``training.max_steps`` of a run's saved configuration; None where it does not say."""
    try:
        found = OmegaConf.select(OmegaConf.load(run_dir / CONFIG), "training.max_steps")
    except Exception:
        # Whatever ails the file: nothing but a notice hangs on it.
        return None
    return found if isinstance(found, int) else None
