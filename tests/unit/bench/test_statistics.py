"""The statistics of a bench against answers known by other ways."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from chronorun.bench.evidence import statistics
from chronorun.bench.evidence.statistics import (
    bca_interval,
    holm,
    seeds_needed,
    sign_flip_p,
    smallest_p,
    told_p,
    tost_p,
)

samples = st.lists(st.integers(-1000, 1000).map(lambda value: value / 1000), min_size=1, max_size=8)


def test_importing_statistics_does_not_import_scipy():
    code = (
        "import sys, chronorun.bench.evidence.statistics, chronorun.bench.evidence.verdicts;"
        "print([name for name in ('scipy', 'numpy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- sign flips


def enumerated(differences):
    """The definition in exact integers: the share of sign patterns with so large a sum."""
    patterns = list(itertools.product((-1, 1), repeat=len(differences)))
    observed = abs(sum(differences))
    sums = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) for p in patterns]
    return sum(value >= observed for value in sums) / len(patterns)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (5, 0.0625), (6, 0.03125), (10, 0.001953125)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_differences_of_one_sign_give_the_smallest_p(n, p, sign):
    assert sign_flip_p([sign * 0.1 * (1 + k) for k in range(n)]) == p == smallest_p(n)
    assert sign_flip_p([sign * 0.1] * n) == p


def test_sign_flips_by_hand():
    # 1 + 2 + 3 + 4 - 5 = 5, of 32 patterns 20 have a sum of 5 or more on either side:
    # minus-sets of sum 0..5 are {}, 1, 2, 3, 12, 4, 13, 5, 14, 23: 10 a side.
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, -5.0]) == 20 / 32
    # 2 + ... + 6 - 1 = 19 of 21: only {} and {1} are in the minus-set, on either side.
    assert sign_flip_p([-1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 4 / 64
    # Ten ones with two of the other sign: a sum of at least 6 needs at most two: 1 + 10 + 45.
    assert sign_flip_p([1.0] * 8 + [-1.0] * 2) == 112 / 1024


@pytest.mark.parametrize("n", [5, 6, 10])
def test_sign_flips_agree_with_enumeration(n):
    rng = np.random.default_rng(n)
    for shift in (0, 0, 20, 60):
        whole = [int(value) for value in rng.integers(-100, 100, size=n) + shift]
        # Thousandths are not exact in binary, so ties have to survive rounding.
        assert sign_flip_p([value / 1000 for value in whole]) == enumerated(whole)


def test_ties_around_a_mean_of_zero_are_counted():
    assert sum([0.1, 0.2, -0.3]) != 0
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1.0


def test_no_difference_at_all_has_p_one():
    assert sign_flip_p([0.0] * 10) == 1.0
    assert sign_flip_p([]) == 1.0


def test_many_pairs_are_sampled_close_to_the_exact_p():
    # Of 24 ones four have the other sign: P(at most 4 or at least 20 heads of 24 tosses).
    exact = 2 * sum(math.comb(24, k) for k in range(5)) / 2**24
    p = sign_flip_p([1.0] * 20 + [-1.0] * 4)
    assert p == pytest.approx(exact, rel=0.2)
    assert p == sign_flip_p([1.0] * 20 + [-1.0] * 4)


def test_sampled_p_is_never_below_the_smallest_possible_one():
    # 2/2^17 is 1.5e-5; a hundred thousand draws of which none is as extreme would say 1e-5.
    assert smallest_p(17) <= sign_flip_p([1.0 + k for k in range(17)]) <= 1e-4


@settings(max_examples=60, deadline=None)
@given(samples)
def test_sign_flip_p_lies_between_its_bounds_and_is_exact(sample):
    p = sign_flip_p(sample)
    assert smallest_p(len(sample)) <= p <= 1
    assert p == enumerated([round(value * 1000) for value in sample])


@settings(max_examples=60, deadline=None)
@given(samples, st.sampled_from([1e-9, 0.3, 7.0, 1e6]))
def test_sign_flip_p_ignores_a_global_sign_and_scale(sample, scale):
    p = sign_flip_p(sample)
    assert sign_flip_p([-value for value in sample]) == p
    assert sign_flip_p([scale * value for value in sample]) == p
    assert sign_flip_p(sample[::-1]) == p


@pytest.mark.parametrize("n", [5, 6, 10])
def test_a_planted_effect_is_found_as_far_as_so_many_seeds_allow(n):
    rng = np.random.default_rng(n)
    for shift in (-0.05, 0.05):
        p = sign_flip_p(list(rng.normal(shift, 0.002, size=n)))
        assert p == 2 / 2**n
        assert (p <= 0.05) == (n >= 6)


@pytest.mark.parametrize("n", [5, 6, 10])
def test_a_planted_null_passes_no_more_often_than_alpha_says(n):
    rng = np.random.default_rng(n)
    found = sum(sign_flip_p(list(rng.normal(0, 0.002, size=n))) <= 0.05 for _ in range(300))
    # By design 0 of n = 5, at most 5% beyond: 300 draws may show up to 8% of that.
    assert found <= (0 if n == 5 else 24)


# --- how many seeds


@pytest.mark.parametrize(
    ("cells", "alpha", "n"), [(1, 0.05, 6), (2, 0.05, 7), (10, 0.05, 9), (1, 0.0625, 5), (1, 1, 1)]
)
def test_seeds_needed(cells, alpha, n):
    assert seeds_needed(cells, alpha) == n
    assert cells * smallest_p(n) <= alpha
    assert n == 1 or cells * smallest_p(n - 1) > alpha


# --- Holm


def test_holm_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1, raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.6]) == [0.8, 0.8]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_is_monotone_and_follows_its_input(p_values, random):
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, len(p_values) * p) for p, a in zip(p_values, adjusted, strict=True))
    in_order = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert in_order == sorted(in_order)
    shuffled = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[k] for k in shuffled]) == [adjusted[k] for k in shuffled]


# --- equivalence


def test_tost_by_hand():
    # Mean 2, standard deviation 1, n = 3: a standard error of 1/sqrt(3). With two degrees of
    # freedom P(T > t) = 1/2 - t / (2 sqrt(2 + t^2)). Margin 4 is t = 2 sqrt(3) away.
    t = 2 * math.sqrt(3)
    expected = 0.5 - t / (2 * math.sqrt(2 + t * t))
    assert tost_p([1.0, 2.0, 3.0], 4.0) == pytest.approx(expected, rel=1e-9)
    assert tost_p([-1.0, -2.0, -3.0], 4.0) == pytest.approx(expected, rel=1e-9)


def test_tost_is_one_half_where_the_mean_is_the_margin():
    assert tost_p([1.0, 2.0, 3.0], 2.0) == pytest.approx(0.5)


def test_tost_finds_a_planted_null_inside_the_margin_and_none_outside():
    noise = np.random.default_rng(3).normal(0, 0.002, size=10)
    assert tost_p(list(noise), 0.01) < 0.001
    assert tost_p(list(noise + 0.02), 0.01) > 0.999
    assert tost_p(list(noise - 0.02), 0.01) > 0.999


@pytest.mark.parametrize("n", [5, 6, 10])
@pytest.mark.parametrize("side", [-1, 1])
def test_tost_tells_inside_from_outside_at_either_side_with_few_seeds(n, side):
    noise = np.random.default_rng(n).normal(0, 0.001, size=n)
    assert tost_p(list(side * 0.002 + noise), 0.01) < 0.05
    assert tost_p(list(side * 0.02 + noise), 0.01) > 0.95
    # Just beyond the margin, on one side alone.
    assert tost_p(list(side * 0.011 + noise), 0.01) > 0.5


@pytest.mark.parametrize(("p", "told"), [(0.0, "< 1e-16"), (3e-16, "3e-16"), (0.0321, "0.032")])
def test_a_p_below_rounding_is_told_as_such(p, told):
    assert told_p(p) == told


def test_tost_at_the_edge_of_the_margin_passes_as_often_as_alpha_says():
    rng = np.random.default_rng(5)
    passed = [tost_p(list(rng.normal(0.01, 0.002, size=8)), 0.01) <= 0.05 for _ in range(400)]
    assert 0.02 < np.mean(passed) < 0.08


@pytest.mark.parametrize(
    ("differences", "margin", "p"),
    [
        ([0.0, 0.0, 0.0], 0.01, 0.0),
        ([-0.005, -0.005], 0.01, 0.0),
        ([0.01, 0.01], 0.01, 1.0),
        ([-0.02, -0.02], 0.01, 1.0),
        ([0.0], 0.01, 1.0),
        ([], 0.01, 1.0),
        ([0.0, 0.0], 0.0, 1.0),
        ([0.0, 0.1], -1.0, 1.0),
        ([0.0, 0.1], math.nan, 1.0),
    ],
)
def test_tost_without_variance_pairs_or_margin(differences, margin, p):
    assert tost_p(differences, margin) == p


# --- intervals


def test_bca_covers_the_planted_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(200):
        # Skewed on purpose: that is what the correction is for.
        low, high = bca_interval(list(rng.gamma(4.0, 1.0, size=30)), resamples=999)
        covered += low <= 4.0 <= high
    assert 0.89 <= covered / 200 <= 0.98


def test_bca_is_near_the_normal_interval_for_a_symmetric_sample():
    sample = list(np.random.default_rng(2).normal(1.0, 0.5, size=200))
    low, high = bca_interval(sample)
    half = 1.96 * np.std(sample, ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((np.mean(sample) - half, np.mean(sample) + half), abs=0.01)
    narrow = bca_interval(sample, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bca_shifts_towards_the_long_tail():
    sample = [0.0] * 12 + [1.0, 3.0, 8.0]
    low, high = bca_interval(sample)
    plain_low, plain_high = statistics._bootstrap(sample, "percentile", 0.95, 9999, 0)
    assert low > plain_low
    assert high > plain_high


def test_bca_is_deterministic_and_follows_its_seed():
    sample = [0.1, -0.2, 0.4, 0.3, -0.1, 0.05]
    assert bca_interval(sample) == bca_interval(sample)
    assert bca_interval(sample, resamples=99, seed=1) != bca_interval(sample, resamples=99, seed=2)


def test_degenerate_samples_have_the_interval_the_docstring_promises():
    assert bca_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    assert all(math.isnan(end) for end in bca_interval([0.3]))
    assert all(math.isnan(end) for end in bca_interval([]))


def test_percentile_interval_stands_in_where_bca_is_undefined():
    # The cubes of the jackknife differences underflow: BCa has no acceleration.
    sample = [1e-170, 2e-170, 3e-170, 5e-170]
    assert all(math.isnan(end) for end in statistics._bootstrap(sample, "BCa", 0.95, 999, 0))
    low, high = bca_interval(sample, resamples=999)
    assert 1e-170 <= low < high <= 5e-170
