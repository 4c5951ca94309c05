"""The logit offset that gives a merged expert the tokens its two parents had."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MARGIN_NATS = 0.01
"""Distance to the outermost token where nothing bounds the offset on the other side: gates move
with the offset, so it goes no further than it must."""


def match_offset(
    logit_T: Tensor,
    rivals_TE: Tensor,
    top_k: int,
    fraction: float,
    *,
    low: float = -20.0,
    high: float = 20.0,
) -> float:
    """Return the offset in nats with which ``fraction`` of the tokens choose the merged expert.

    ``logit_T`` are its logits on T probe tokens without an offset, ``rivals_TE`` those of the other
    experts with theirs; -inf is allowed. Exact, not searched for: a token chooses the expert when
    the offset exceeds its critical one, the k-th largest rival minus the own logit, so the answer
    lies between two neighbours in the order of these; it is halfway. Where the fraction cannot be
    met (ties, tokens without k rivals) the nearest count that can be is, the smaller one if two
    are. Where only one side is bounded it is the offset nearest to 0, and 0 where none is. Within
    [low, high] in any case.
    """
    assert top_k >= 1, top_k
    assert 0.0 <= fraction <= 1.0, fraction
    critical_T = _critical_offsets(logit_T, rivals_TE, top_k).sort().values
    T = critical_T.numel()
    # Between edges n and n + 1 exactly n tokens choose the expert, if there is any room between.
    ends = critical_T.new_tensor([-math.inf, math.inf])
    edges = torch.cat([ends[:1], critical_T, ends[1:]])
    below, above = edges[:-1], edges[1:]
    miss = (torch.arange(T + 1, dtype=torch.float64) - fraction * T).abs()
    count = int(miss.masked_fill(below >= above, math.inf).argmin())
    return min(max(_between(float(below[count]), float(above[count])), low), high)


def _critical_offsets(logit_T: Tensor, rivals_TE: Tensor, top_k: int) -> Tensor:
    """Return critical_T, float64 on the CPU: -inf is always chosen, inf never."""
    own_T = logit_T.detach().to("cpu", torch.float64)
    if rivals_TE.shape[1] < top_k:
        return torch.full_like(own_T, -math.inf)
    rivals_TE = rivals_TE.detach().to("cpu", torch.float64)
    bar_T = rivals_TE.topk(top_k, dim=1).values[:, -1]
    # A logit of -inf rules a token out, also where rivals lack: -inf + inf would be no number.
    return (bar_T - own_T).masked_fill(own_T.isneginf(), math.inf)


def _between(below: float, above: float) -> float:
    if math.isinf(below) and math.isinf(above):
        return 0.0
    if math.isinf(below):
        return min(0.0, above - _MARGIN_NATS)
    if math.isinf(above):
        return max(0.0, below + _MARGIN_NATS)
    return (below + above) / 2.0
