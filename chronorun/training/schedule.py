"""The learning rate, a pure function of the step."""

from __future__ import annotations

import math

from chronorun.config.training import OptimizerConfig, Schedule


def learning_rate(step: int, config: OptimizerConfig, max_steps: int) -> float:
    """Return the learning rate of step ``step`` (counted from 0).

    Linear warm-up to ``lr``, then cosine decay to ``min_lr_ratio * lr`` (SGDR, arXiv:1608.03983,
    without restarts), or WSD: constant, then ``1 - sqrt`` decay over the last
    ``wsd_decay_fraction`` of the steps (Hägele et al. 2024, arXiv:2405.18392; ours ends at
    ``min_lr_ratio * lr`` and never begins inside the warm-up), or constant.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule is Schedule.constant:
        return config.lr
    if config.schedule is Schedule.cosine:
        start = config.warmup_steps
        progress = min(1.0, (step - start) / max(1, max_steps - 1 - start))
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        length = max(1, round(config.wsd_decay_fraction * max_steps))
        start = max(config.warmup_steps, max_steps - length)
        progress = min(1.0, max(0.0, (step + 1 - start) / max(1, max_steps - start)))
        factor = 1 - math.sqrt(progress)
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * factor)
