"""Loss on fixed batches, without a trace in the training run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from chronorun.model import GPT


@torch.no_grad()
def evaluate(
    model: GPT,
    batches: Sequence[NDArray[np.int64]],
    device: torch.device,
    context: contextlib.AbstractContextManager[None],
) -> float:
    """Return the mean loss in nats per token over batches [B, S+1].

    ``context`` is the forward pass's autocast. Eval mode: no dropout, no router noise, so no random
    number is drawn and no observer is called.
    """
    assert len(batches) > 0, "nothing to evaluate on"
    was_training = model.training
    model.eval()
    total, n_tokens = torch.zeros((), dtype=torch.float64, device=device), 0
    try:
        with context:
            for batch in batches:
                tokens = torch.from_numpy(batch).to(device)
                targets = tokens[:, 1:]
                loss = model(tokens[:, :-1], targets).loss
                assert loss is not None
                total += loss.double() * targets.numel()
                n_tokens += targets.numel()
    finally:
        model.train(was_training)
    return float(total) / n_tokens
