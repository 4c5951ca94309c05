"""The baseline a language model must beat: counts of token pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bigram_nats_per_token(
    train: NDArray[Any], val: NDArray[Any], vocab_size: int, discount: float = 0.75
) -> float:
    """Return the loss on ``val`` of a bigram model fitted to ``train``, in nats per token.

    Absolute discounting backed off to an add-one unigram (Ney, Essen & Kneser 1994): well defined
    for pairs never seen, and sparse, so that large vocabularies cost no more than their text.
    NaN when either split has fewer than two tokens.
    """
    if len(train) < 2 or len(val) < 2:
        return float("nan")
    left, right = train[:-1].astype(np.int64), train[1:].astype(np.int64)
    pairs, counts = np.unique(left * vocab_size + right, return_counts=True)
    context_total = np.bincount(left, minlength=vocab_size)
    context_types = np.bincount(pairs // vocab_size, minlength=vocab_size)
    unigram = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    seen_left, seen_right = val[:-1].astype(np.int64), val[1:].astype(np.int64)
    key = seen_left * vocab_size + seen_right
    place = np.minimum(np.searchsorted(pairs, key), len(pairs) - 1)
    count = np.where(pairs[place] == key, counts[place], 0)
    total = context_total[seen_left]
    safe = np.maximum(total, 1)
    backoff = np.where(total > 0, discount * context_types[seen_left] / safe, 1.0)
    probability = np.maximum(count - discount, 0) / safe + backoff * unigram[seen_right]
    return float(-np.log(probability).mean())
