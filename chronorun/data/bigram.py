"""The bigram baseline: what counting pairs of tokens reaches, to hold a trained model against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_DENSE_PAIRS = 2**24  # count pairs in an array up to this size, by sorting beyond it


def bigram_nats_per_token(
    train_tokens: npt.NDArray[Any], val_tokens: npt.NDArray[Any], vocab_size: int
) -> float:
    """Return the mean negative log-likelihood of the val tokens (from the second on), in nats.

    Counts of the train split, smoothed as Witten and Bell (1991, method C): a context seen n times
    with t different successors gives t / (n + t) of its mass to an add-one unigram.
    """
    train = np.asarray(train_tokens, dtype=np.int64)
    val = np.asarray(val_tokens, dtype=np.int64)
    unigram = np.bincount(train, minlength=vocab_size) + 1.0
    unigram /= unigram.sum()

    pairs, counts = _count_pairs(train[:-1] * vocab_size + train[1:], vocab_size)
    seen = np.bincount(train[:-1], minlength=vocab_size)
    successors = np.bincount(pairs // vocab_size, minlength=vocab_size)

    before, after = val[:-1], val[1:]
    wanted = before * vocab_size + after
    position = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    together = np.where(pairs[position] == wanted, counts[position], 0)
    n, t = seen[before], np.maximum(successors[before], 1)  # an unseen context is all unigram
    probability = (together + t * unigram[after]) / (n + t)
    return float(-np.log(probability).mean())


def _count_pairs(
    codes: npt.NDArray[np.int64], vocab_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the sorted distinct pair codes and how often each occurs."""
    if vocab_size**2 <= _DENSE_PAIRS:
        table = np.bincount(codes, minlength=vocab_size**2)
        pairs = np.flatnonzero(table)
        return pairs, table[pairs]
    return np.unique(codes, return_counts=True)
