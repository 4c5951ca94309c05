"""How alike two experts of a layer are: in their weights, and in the tokens they get."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from chronorun.lifecycle.decide.signals import PairSignals
from chronorun.lifecycle.experts.basins import BasinEntry, Dist

ALL_PAIRS_UP_TO = 16
PAIRS_KEPT = 64


def js_overlap(first: Dist, second: Dist) -> float:
    """Return ``1 - JS(first, second) / ln 2`` of two distributions: 1 if equal, 0 if disjoint.

    Where one of them is empty (sums to 0) nothing overlaps: 0.
    """
    return float(js_overlaps(first[None], second[None])[0])


def js_overlaps(first: Dist, second: Dist) -> Dist:
    """Return ``js_overlap`` of the rows of two arrays [N, bins] as [N]."""
    middle = 0.5 * (first + second)
    divergence = 0.5 * (_relative_entropy(first, middle) + _relative_entropy(second, middle))
    overlap = np.clip(1.0 - divergence / math.log(2.0), 0.0, 1.0)
    empty = (first.sum(axis=1) == 0.0) | (second.sum(axis=1) == 0.0)
    return np.where(empty, 0.0, overlap)


def _relative_entropy(p: Dist, q: Dist) -> Dist:
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0.0)
    return np.asarray((p * np.log(ratio)).sum(axis=1))


def pair_signals(
    expert_ids: Sequence[str],
    entries: Sequence[BasinEntry],
    cosines: NDArray[np.float64],
) -> list[PairSignals]:
    """Return cosine and overlap of a layer's pairs, from the weights' cosine matrix [E, E].

    Up to 16 experts all pairs, beyond that the 64 of the largest cosine (an entry that is NaN was
    ruled out by a prefilter); overlaps are computed for those only.
    """
    pairs = list(_chosen_pairs(cosines))
    if not pairs:
        return []
    rows, columns = [p[0] for p in pairs], [p[1] for p in pairs]
    types = [np.stack([entries[i].token_type_dist for i in side]) for side in (rows, columns)]
    places = [np.stack([entries[i].position_dist for i in side]) for side in (rows, columns)]
    overlaps = np.minimum(js_overlaps(*types), js_overlaps(*places))
    return [
        PairSignals(expert_ids[i], expert_ids[j], float(cosines[i, j]), float(overlap))
        for (i, j), overlap in zip(pairs, overlaps, strict=True)
    ]


def _chosen_pairs(cosines: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    n = len(cosines)
    if n <= ALL_PAIRS_UP_TO:
        yield from combinations(range(n), 2)
        return
    rows, columns = np.nonzero(np.triu(~np.isnan(cosines), k=1))
    best = np.argsort(-cosines[rows, columns], kind="stable")[:PAIRS_KEPT]
    for index in np.sort(best).tolist():
        yield int(rows[index]), int(columns[index])
