"""Batches as pure functions: of (seed, step) in training, of the corpus alone in evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from chronorun.data.corpus import Tokens, TokenSplit
from chronorun.errors import UserError

Batch = NDArray[np.int64]
_TRAIN, _PROBE = 1, 2


def train_batch(
    split: TokenSplit,
    *,
    seed: int,
    step: int,
    batch_size: int,
    context_length: int,
    domain_weights: Mapping[str, float] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Batch:
    """Return this rank's rows of the global batch of a step, [B / world, S + 1] int64.

    The global batch depends on (seed, step) alone; rank r takes its rows r::world. Windows lie
    within one domain; domains are drawn by ``domain_weights``, or by their size.
    """
    rng = _generator(seed, step, _TRAIN)
    return _draw(split, rng, batch_size, context_length, domain_weights)[rank::world]


def probe_batch(
    split: TokenSplit,
    *,
    seed: int,
    edit_step: int,
    batch_size: int,
    context_length: int,
    domain: str | None = None,
) -> Batch:
    """Return the batch that measures an edit: a function of (seed, edit_step), [B, S + 1]."""
    rng = _generator(seed, edit_step, _PROBE)
    weights = None if domain is None else {domain: 1.0}
    return _draw(split, rng, batch_size, context_length, weights)


def fixed_batches(
    split: TokenSplit,
    *,
    n: int,
    batch_size: int,
    context_length: int,
    domain: str | None = None,
) -> list[Batch]:
    """Return n batches of evenly spaced windows, the same for every run and seed."""
    names = [domain] if domain is not None else list(split.spans)
    streams = [_windows(split.domain_tokens(name), context_length) for name in names]
    offsets = [0 if domain is not None else split.spans[name][0] for name in names]
    tokens = split.domain_tokens(domain) if domain is not None else split.tokens
    starts = np.concatenate(
        [offset + np.arange(count) for offset, count in zip(offsets, streams, strict=True)]
    )
    if len(starts) == 0:
        raise UserError(
            f"data: domain {domain} of the evaluation split is shorter than one context "
            f"({context_length} tokens); add text or lower model.context_length"
        )
    picks = starts[np.linspace(0, len(starts) - 1, n * batch_size).round().astype(np.int64)]
    rows = _rows(tokens, picks, context_length)
    # Dealt like cards, so that each batch sees the whole split.
    return [np.ascontiguousarray(rows[index::n]) for index in range(n)]


def domain_batches(
    split: TokenSplit, *, n: int, batch_size: int, context_length: int
) -> dict[str, list[Batch]]:
    """Return fixed batches of each domain, where there are several; all of them together about n.

    Few domains get a quarter of n each; many share n, the largest ones if there are more of them
    than rows. A domain without a window is left out.
    """
    if len(split.spans) < 2:
        return {}
    windows = {d: _windows(split.domain_tokens(d), context_length) for d in split.spans}
    largest = sorted(windows, key=lambda domain: -windows[domain])[: n * batch_size]
    chosen = [domain for domain in split.spans if windows[domain] > 0 and domain in set(largest)]
    most = max(1, n // 4) * batch_size
    rows = max(1, min(most, n * batch_size // max(1, len(chosen))))
    size = min(rows, batch_size)
    return {
        domain: fixed_batches(
            split,
            n=rows // size,
            batch_size=size,
            context_length=context_length,
            domain=domain,
        )
        for domain in chosen
    }


def _generator(seed: int, step: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, purpose])))


def _windows(tokens: Tokens, context_length: int) -> int:
    return max(0, len(tokens) - context_length)


def _draw(
    split: TokenSplit,
    rng: np.random.Generator,
    batch_size: int,
    context_length: int,
    weights: Mapping[str, float] | None,
) -> Batch:
    names = list(split.spans)
    counts = np.array([_windows(split.domain_tokens(name), context_length) for name in names])
    wanted = counts.astype(np.float64)
    if weights is not None:
        for name in weights:
            split.domain_tokens(name)
        wanted = np.array([weights.get(name, 0.0) for name in names]) * (counts > 0)
    if wanted.sum() <= 0:
        raise UserError(
            f"data: no domain has a window of {context_length + 1} tokens to train on; "
            f"add text or lower model.context_length"
        )
    edges = np.cumsum(wanted / wanted.sum())
    # Two draws for each row, for any weights: a shift of domains changes nothing else.
    uniform = rng.random((batch_size, 2))
    chosen = np.minimum(np.searchsorted(edges, uniform[:, 0], side="right"), len(names) - 1)
    first = np.array([split.spans[name][0] for name in names])
    starts = first[chosen] + (uniform[:, 1] * counts[chosen]).astype(np.int64)
    return _rows(split.tokens, starts, context_length)


def _rows(tokens: Tokens, starts: NDArray[np.int64], context_length: int) -> Batch:
    rows: Batch = tokens[starts[:, None] + np.arange(context_length + 1)].astype(np.int64)
    return rows
