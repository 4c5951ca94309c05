"""The model as training forwards it: itself, or within DistributedDataParallel.

DistributedDataParallel and no all-reduce of our own: it sends gradients while the backward still
runs. Its costs do not come up here. Experts are stacked, so that one without tokens has a gradient
all the same (of zeros), and ``find_unused_parameters`` is not needed; an edit is followed by
building it anew, which is seldom. It must be: DDP knows the parameters it was built with, and an
expert that came behind its back would never be synchronised.
"""

from __future__ import annotations

import contextlib
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from chronorun.core.processes import Processes
from chronorun.model import GPT


class Replica:
    """This process's copy of a model, whose gradients become the mean over all processes'."""

    def __init__(self, model: GPT, processes: Processes) -> None:
        self.model = model
        self.processes = processes
        self._parallel: DistributedDataParallel | None = None
        self._parameters: list[nn.Parameter] = []
        if processes.world > 1:
            for layer in model.moe_layers():
                layer.sum_counts = processes.sum

    def forward_as(self) -> nn.Module:
        """Return what to call in the forward of a step."""
        if self.processes.world == 1:
            return self.model
        parameters = list(self.model.parameters())
        if self._parallel is None or _differ(parameters, self._parameters):
            self._parameters = parameters
            # The old one goes first: two of them would hold buckets of every gradient.
            self._parallel = None
            self._parallel = build_parallel(self.model)
        return self._parallel

    def keep_apart(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch after which gradients are not exchanged yet."""
        if self._parallel is None or not wanted:
            return contextlib.nullcontext()
        return self._parallel.no_sync()


def build_parallel(model: nn.Module) -> DistributedDataParallel:
    """Return a model within DDP, as it is built at the start and after every edit.

    Weights are not copied from the first process: they were compared, and a copy would hide what
    went wrong. Neither are buffers, which move by the same rules everywhere.
    """
    parallel = DistributedDataParallel(model, init_sync=False, gradient_as_bucket_view=True)
    parallel.broadcast_buffers = False
    return parallel


def _differ(now: list[nn.Parameter], then: list[nn.Parameter]) -> bool:
    return len(now) != len(then) or any(a is not b for a, b in zip(now, then, strict=True))
