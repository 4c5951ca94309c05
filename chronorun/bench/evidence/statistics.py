"""Paired statistics of a bench: intervals, exact tests, corrections, equivalence.

Every sample is a list of paired differences (lifecycle minus baseline), one for each seed.
Sources: Efron 1987 (BCa); Fisher 1935 (sign flips); Holm 1979; Schuirmann 1987 (TOST).
scipy is imported where it is used, so that commands that need no statistics start quickly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EXACT_UP_TO = 16
_RESAMPLES_BEYOND = 100_000
_BATCH = 4096
_TIE = 1e-9
"""Means closer than this part of the mean absolute difference count as equal."""


def bca_interval(
    differences: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of the mean.

    Equal differences give an interval of no width, fewer than two give (nan, nan). Where BCa is
    undefined (its bias or acceleration is not finite) the percentile interval stands in.
    """
    if len(differences) < 2:
        return math.nan, math.nan
    if min(differences) == max(differences):
        return float(differences[0]), float(differences[0])
    for method in ("BCa", "percentile"):
        interval = _bootstrap(differences, method, confidence, resamples, seed)
        if all(math.isfinite(end) for end in interval):
            break
    return interval


def _bootstrap(
    differences: Sequence[float], method: str, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    import numpy as np
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # An undefined BCa is announced by a warning; the caller sees it in the result.
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (np.asarray(differences, dtype=float),),
            np.mean,
            n_resamples=resamples,
            confidence_level=confidence,
            method=method,
            vectorized=True,
            random_state=np.random.default_rng(seed),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the mean under random signs of the differences.

    All 2^n sign patterns are counted for n of at most 16; beyond that (seconds each from n = 20
    on) 100,000 seeded patterns are drawn and the observed one is added to them. The result is at
    least 2/2^n; it is 1 for no difference at all.
    """
    n = len(differences)
    if n < 2 or not any(differences):
        return 1.0
    means, observed = _sign_flipped_means(differences)
    tolerance = _TIE * math.fsum(abs(difference) for difference in differences) / n
    # scipy's own p compares with a tolerance relative to the observed mean, which misses ties
    # between means that rounding alone keeps from zero; its null distribution is counted here.
    extreme = int((abs(means) >= abs(observed) - tolerance).sum())
    if n <= _EXACT_UP_TO:
        return extreme / len(means)
    return max((extreme + 1) / (len(means) + 1), smallest_p(n))


def _sign_flipped_means(differences: Sequence[float]) -> tuple[NDArray[np.float64], float]:
    import numpy as np
    from scipy import stats

    exact = len(differences) <= _EXACT_UP_TO
    found: Any = stats.permutation_test(
        (np.asarray(differences, dtype=float),),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf if exact else _RESAMPLES_BEYOND,
        vectorized=True,
        batch=_BATCH,
        random_state=np.random.default_rng(0),
    )
    return found.null_distribution, float(found.statistic)


def smallest_p(n: int) -> float:
    """Return the smallest p that the two-sided sign-flip test can give for n pairs."""
    return float(min(1.0, math.ldexp(2.0, -n)))


def seeds_needed(cells: int, alpha: float) -> int:
    """Return the least n at which one of ``cells`` tests can pass Holm's first step."""
    n = 1
    while cells * smallest_p(n) > alpha:
        n += 1
    return n


def told_p(p: float) -> str:
    """Return a p value for people; below 1e-16 rounding leaves nothing of it."""
    return "< 1e-16" if p < 1e-16 else f"{p:.2g}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given, none above 1."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def tost_p(differences: Sequence[float], margin: float) -> float:
    """Return the p of the claim that the mean lies within ``margin`` of zero.

    The larger p of two one-sided t tests, against -margin and against +margin. Without variance
    it is 0 inside the margin and 1 outside; it is 1 for fewer than two differences, or a margin
    that is not above zero.
    """
    if len(differences) < 2 or not margin > 0:
        return 1.0
    if min(differences) == max(differences):
        return 0.0 if abs(differences[0]) < margin else 1.0
    from scipy import stats

    with warnings.catch_warnings():
        # scipy warns of nearly equal samples; their p is right to the precision that counts.
        warnings.simplefilter("ignore", RuntimeWarning)
        above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    return float(max(above, below))
