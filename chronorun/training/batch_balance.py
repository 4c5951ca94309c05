"""The balancing loss of a batch that is trained on in micro-batches.

It is made of each expert's fraction f of the batch's assignments and its mean probability P, and P
alone carries gradient. So it is linear in the tokens once f is known: with the whole batch's f in
every part, the parts' mean is the loss of the whole batch, and so is its gradient. f has to be
known before the first backward, and a layer's routing follows from the layers before it: a pass
without gradients goes ahead of the step's own and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from chronorun.core.processes import Processes
from chronorun.model import GPT
from chronorun.model.losses import load_balancing_loss

Autocast = Callable[[], AbstractContextManager[None]]


class WholeBatch:
    """Gives micro-batches the balancing loss of their batch.

    ``coefficient`` is the loss's weight in the step's. Where it is 0 no gradient depends on f, and
    the figure that is logged is put together from the parts as they pass.
    """

    def __init__(self, model: GPT, processes: Processes, coefficient: float) -> None:
        self.model, self.processes, self.coefficient = model, processes, coefficient

    @contextmanager
    def seen_by(self, parts: Sequence[Tensor], autocast: Autocast) -> Iterator[_Seen | None]:
        """Let each layer see the batch beyond the part [B, S] that passes.

        Yields the sums over the parts where the loss is known only after the last of them.
        """
        if len(parts) == 1:
            yield None
        elif self.coefficient > 0.0:
            with self._counted(self._count_ahead(parts, autocast)):
                yield None
        else:
            with self._observed() as seen:
                yield seen

    @torch.no_grad()
    def _count_ahead(self, parts: Sequence[Tensor], autocast: Autocast) -> list[Tensor]:
        """Return each layer's assignments, int64 [E], of the batch of all processes.

        Tokens are routed as the step's own forwards will route them, dropout and router noise
        included; the random stream is put back, and no observer is called.
        """
        layers = self.model.moe_layers()
        counts = [torch.zeros_like(layer.router.load) for layer in layers]
        device = counts[0].device

        def add(layer_id: int, load_E: Tensor) -> None:
            counts[layer_id] += load_E

        for layer in layers:
            layer.counter = add
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []), autocast():
                for tokens_BS in parts:
                    self.model.pass_blocks(tokens_BS)
        finally:
            for layer in layers:
                layer.counter = None
        summed = self.processes.sum(torch.cat(counts))
        return list(torch.split(summed, [len(one) for one in counts]))

    @contextmanager
    def _counted(self, counts: Sequence[Tensor]) -> Iterator[None]:
        layers = self.model.moe_layers()
        before = [layer.sum_counts for layer in layers]
        for layer, load_E in zip(layers, counts, strict=True):
            layer.sum_counts = _always(load_E)
        try:
            yield
        finally:
            for layer, sum_counts, load_E in zip(layers, before, counts, strict=True):
                layer.sum_counts = sum_counts
                if layer.router.config.loss_free:
                    # Every part has added the whole batch's.
                    layer.router.load.copy_(load_E)

    @contextmanager
    def _observed(self) -> Iterator[_Seen]:
        seen = _Seen(self.model)
        layers = self.model.moe_layers()
        for layer in layers:
            layer.balance_observer = seen.observe
        try:
            yield seen
        finally:
            for layer in layers:
                layer.balance_observer = None


class _Seen:
    """What the balancing loss is made of, added up over the parts of a batch."""

    def __init__(self, model: GPT) -> None:
        self.layers = model.moe_layers()
        self.load = [torch.zeros_like(layer.router.load) for layer in self.layers]
        self.probs = [torch.zeros_like(layer.router.logit_offset) for layer in self.layers]
        self.parts = [0] * len(self.layers)

    def observe(self, layer_id: int, probs_TE: Tensor, load_E: Tensor) -> None:
        self.load[layer_id] += load_E
        self.probs[layer_id] += probs_TE.mean(dim=0)
        self.parts[layer_id] += 1

    def loss(self) -> Tensor:
        """Return the layers' mean balancing loss of the whole batch, a scalar."""
        each = zip(self.layers, self.load, self.probs, self.parts, strict=True)
        losses = [
            load_balancing_loss(probs_E[None] / parts, load_E, layer.num_groups)
            for layer, load_E, probs_E, parts in each
        ]
        return torch.stack(losses).mean()


def _always(load_E: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda part_E: load_E
