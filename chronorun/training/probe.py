"""The loss on the probe: a split that neither training nor validation sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from chronorun.config.run import RunConfig
from chronorun.data import TokenSplit, probe_batch
from chronorun.model import GPT
from chronorun.training.evaluate import evaluate
from chronorun.training.stepping import autocast


class Probe:
    """Returns the model's loss on the probe batch of a step, drawn from the domain trained on last.

    The batch is a pure function of (seed, step, domain), so that readings before and after an edit
    compare. Eval mode, no gradient, no random number. ``tokens`` counts what was read.
    """

    def __init__(
        self, config: RunConfig, model: GPT, split: TokenSplit, device: torch.device
    ) -> None:
        self.config, self.model, self.split, self.device = config, model, split, device
        self.tokens = 0
        self.domain_weights: Callable[[int], Mapping[str, float] | None] = lambda step: None

    def __call__(self, step: int) -> float:
        """Return nats per token."""
        # ``step`` steps are done: the last of them had the index below.
        weights = self.domain_weights(max(0, step - 1))
        batch = probe_batch(
            self.split,
            seed=self.config.seed,
            edit_step=step,
            batch_size=self.config.lifecycle.probe_batch_size,
            context_length=self.config.model.context_length,
            domain=None if weights is None else max(weights, key=lambda name: weights[name]),
        )
        self.tokens += batch[:, 1:].size
        context = autocast(self.device, self.config.training.precision)
        return evaluate(self.model, [batch], self.device, context)
