"""Batches as pure functions: the same arguments give the same tokens, on any machine.

A batch is [B, S+1] int64: inputs are ``[:, :-1]``, targets ``[:, 1:]``. Every window lies within one
domain. The global batch depends on (seed, step) alone; rank r takes its rows ``r::world``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from chronorun.data.corpus import TokenSplit
from chronorun.errors import UserError

Batch = npt.NDArray[np.int64]

# Keeps the draws for training and for probes apart where seed and step agree.
_TRAIN, _PROBE = 0, 1


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
    """Return a rank's rows of the global batch of a step, [batch_size / world, context_length + 1].

    Each row draws its domain by ``domain_weights`` (any non-negative scale; without them every
    window of the split is equally likely), then its start. Raises UserError for weights that name
    no domain or only domains shorter than one window, and for a batch that ranks cannot share.
    """
    if batch_size % world:
        raise UserError(
            f"training: batch_size={batch_size}, expected a multiple of the {world} processes; "
            f"change training.batch_size"
        )
    rng = _generator(seed, _TRAIN, step)
    starts = _draw_starts(rng, split, batch_size, context_length, domain_weights)
    return _windows(split, starts[rank::world], context_length)


def probe_batch(
    split: TokenSplit,
    *,
    seed: int,
    edit_step: int,
    batch_size: int,
    context_length: int,
    domain: str | None = None,
) -> Batch:
    """Return the batch that measures an edit, the same before and after it; optionally one domain."""
    weights = None if domain is None else {domain: 1.0}
    rng = _generator(seed, _PROBE, edit_step)
    starts = _draw_starts(rng, split, batch_size, context_length, weights)
    return _windows(split, starts, context_length)


def fixed_batches(
    split: TokenSplit,
    *,
    n: int,
    batch_size: int,
    context_length: int,
    domain: str | None = None,
) -> list[Batch]:
    """Return ``n`` batches evenly spaced over the split (or one domain): equal in every run.

    Each batch by itself spans the whole split. Windows overlap when the split is small.
    """
    names = list(split.spans) if domain is None else [domain]
    first, room = _window_room(split, names, context_length)
    n_windows = n * batch_size
    positions = (2 * np.arange(n_windows) + 1) * int(room.sum()) // (2 * n_windows)
    ends = room.cumsum()
    which = np.searchsorted(ends, positions, side="right")
    starts = first[which] + positions - (ends - room)[which]
    return [_windows(split, starts[i::n], context_length) for i in range(n)]


def _generator(seed: int, purpose: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, step])))


def _draw_starts(
    rng: np.random.Generator,
    split: TokenSplit,
    batch_size: int,
    context_length: int,
    domain_weights: Mapping[str, float] | None,
) -> npt.NDArray[np.int64]:
    names = list(split.spans) if domain_weights is None else list(domain_weights)
    first, room = _window_room(split, names, context_length)
    weights = room.astype(np.float64)
    if domain_weights is not None:
        weights = np.where(room > 0, np.array(list(domain_weights.values()), dtype=np.float64), 0.0)
        _check_weights(domain_weights, weights)
    edges = weights.cumsum() / weights.sum()
    domain_draw, start_draw = rng.random((2, batch_size))
    which = np.searchsorted(edges, domain_draw, side="right")
    starts: npt.NDArray[np.int64] = first[which] + (start_draw * room[which]).astype(np.int64)
    return starts


def _window_room(
    split: TokenSplit, names: list[str], context_length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where each domain starts, and how many windows it has room for."""
    spans = np.array([split.span(name) for name in names], dtype=np.int64).reshape(-1, 2)
    room = np.maximum(spans[:, 1] - spans[:, 0] - context_length, 0)
    if not room.any():
        raise UserError(
            f"data: the {split.name} split has no stretch of {context_length + 1} tokens in "
            f"{', '.join(names) or 'any domain'}, expected at least one context; add text or "
            f"lower model.context_length"
        )
    return spans[:, 0], room


def _check_weights(given: Mapping[str, float], usable: npt.NDArray[np.float64]) -> None:
    if not np.isfinite(usable).all() or (usable < 0).any() or not usable.any():
        shown = ", ".join(f"{name}: {weight:g}" for name, weight in given.items())
        raise UserError(
            f"data: domain_weights={{{shown}}}, expected finite weights >= 0 with at least one "
            f"above 0 on a domain longer than one context; correct the weights"
        )


def _windows(split: TokenSplit, starts: npt.NDArray[np.int64], context_length: int) -> Batch:
    return split.tokens[starts[:, None] + np.arange(context_length + 1)].astype(np.int64)
