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

    Eval mode: no dropout, no router noise, so no random number is drawn and no observer is called.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    with context:
        for batch in batches:
            tokens = torch.from_numpy(batch).to(device)
            loss = model(tokens[:, :-1], tokens[:, 1:]).loss
            assert loss is not None
            total += loss.double()
    model.train(was_training)
    return float(total) / max(1, len(batches))
