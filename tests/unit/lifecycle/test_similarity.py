"""Overlap of token distributions against SciPy, and the choice of pairs."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.derived import cluster_of
from chronorun.lifecycle.decide.merge import similarity
from chronorun.lifecycle.decide.similarity import (
    js_overlap,
    js_overlaps,
    pair_signals,
)
from chronorun.lifecycle.experts.basins import BasinEntry

Array = NDArray[np.float64]


def distribution(counts: list[int]) -> Array:
    return np.array(counts, float) / max(sum(counts), 1)


histograms = st.lists(st.integers(0, 50), min_size=6, max_size=6).map(distribution)


def reference(p: Array, q: Array) -> float:
    if p.sum() == 0 or q.sum() == 0:
        return 0.0
    return 1.0 - float(jensenshannon(p, q, base=2)) ** 2


def entry_of(types: Array, places: Array) -> BasinEntry:
    return BasinEntry(
        step=0,
        checkpoint=0,
        share=0.1,
        entropy_contribution=0.0,
        token_type_dist=types,
        position_dist=places,
        co_activation={},
        weight_norm=1.0,
        weight_delta=0.0,
    )


# --- overlap


@given(p=histograms, q=histograms)
def test_overlap_is_one_minus_the_jensen_shannon_divergence_in_bits(p: Array, q: Array) -> None:
    overlap = js_overlap(p, q)
    assert overlap == pytest.approx(reference(p, q), abs=1e-9)
    assert overlap == pytest.approx(js_overlap(q, p), abs=1e-12)
    assert 0.0 <= overlap <= 1.0


@given(rows=st.lists(st.tuples(histograms, histograms), min_size=1, max_size=5))
def test_overlaps_of_many_rows_are_those_of_each(rows: list[tuple[Array, Array]]) -> None:
    first, second = np.stack([p for p, _ in rows]), np.stack([q for _, q in rows])
    assert js_overlaps(first, second).tolist() == pytest.approx([js_overlap(*row) for row in rows])


@pytest.mark.parametrize(
    ("p", "q", "overlap"),
    [
        ([0.2, 0.8, 0.0], [0.2, 0.8, 0.0], 1.0),
        ([1.0, 0.0, 0.0], [0.0, 0.5, 0.5], 0.0),
        # JS = H(3/4, 1/4) - 1/2 H(1/2, 1/2) = 0.8113 - 0.5 bits
        ([1.0, 0.0, 0.0], [0.5, 0.5, 0.0], 1.0 - (2.0 - 0.75 * math.log2(3.0) - 0.5)),
        ([0.0, 0.0, 0.0], [0.2, 0.8, 0.0], 0.0),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0),
    ],
    ids=["equal", "disjoint", "half", "one empty", "both empty"],
)
def test_overlap_worked_by_hand(p: list[float], q: list[float], overlap: float) -> None:
    assert js_overlap(np.array(p), np.array(q)) == pytest.approx(overlap, abs=1e-12)


def basin_overlap(first: BasinEntry, second: BasinEntry) -> float:
    """Return what the one pair of a layer of two experts is said to overlap."""
    (pair,) = pair_signals(["a", "b"], [first, second], np.eye(2))
    return pair.overlap


def test_two_experts_that_share_positions_but_no_token_type_do_not_overlap() -> None:
    everywhere = np.full(16, 1 / 16)
    first = entry_of(np.array([1.0, 0.0]), everywhere)
    second = entry_of(np.array([0.0, 1.0]), everywhere)
    assert basin_overlap(first, second) == 0.0


@given(p=histograms, q=histograms, r=histograms, s=histograms)
def test_basin_overlap_is_the_smaller_of_types_and_positions(
    p: Array, q: Array, r: Array, s: Array
) -> None:
    expected = min(reference(p, q), reference(r, s))
    assert basin_overlap(entry_of(p, r), entry_of(q, s)) == pytest.approx(expected, abs=1e-9)


def test_similarity_weighs_cosine_and_overlap_as_configured() -> None:
    assert similarity(0.9, 0.5, LifecycleConfig()) == pytest.approx(0.7)
    config = LifecycleConfig(similarity_cosine_weight=0.25, similarity_overlap_weight=2.0)
    assert similarity(0.8, 0.5, config) == pytest.approx(1.2)


# --- pairs


def layer_of(n: int, seed: int) -> tuple[list[str], list[BasinEntry], Array]:
    rng = np.random.default_rng(seed)
    entries = [
        entry_of(distribution(rng.integers(0, 9, 6).tolist()), distribution([1, *[0] * 5]))
        for _ in range(n)
    ]
    weights = rng.normal(size=(n, 8))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return [f"L0_E{i}" for i in range(n)], entries, weights @ weights.T


@pytest.mark.parametrize("n", [0, 1])
def test_a_layer_without_a_pair_has_none(n: int) -> None:
    assert pair_signals(*layer_of(n, 0)) == []


@given(n=st.integers(2, 16), seed=st.integers(0, 99))
def test_up_to_sixteen_experts_every_pair_is_measured_in_slot_order(n: int, seed: int) -> None:
    ids, entries, cosines = layer_of(n, seed)
    pairs = pair_signals(ids, entries, cosines)
    expected = list(combinations(range(n), 2))
    assert [(p.first, p.second) for p in pairs] == [(ids[i], ids[j]) for i, j in expected]
    assert [p.cosine for p in pairs] == [cosines[i, j] for i, j in expected]
    assert [p.overlap for p in pairs] == pytest.approx(
        [basin_overlap(entries[i], entries[j]) for i, j in expected]
    )


@given(n=st.integers(17, 20), seed=st.integers(0, 99))
def test_beyond_sixteen_experts_the_pairs_of_the_largest_cosine_are_measured(
    n: int, seed: int
) -> None:
    ids, entries, cosines = layer_of(n, seed)
    pairs = pair_signals(ids, entries, cosines)
    best = sorted(combinations(range(n), 2), key=lambda ij: -cosines[ij])[:64]
    assert [(p.first, p.second) for p in pairs] == [(ids[i], ids[j]) for i, j in sorted(best)]
    assert [p.overlap for p in pairs] == pytest.approx(
        [basin_overlap(entries[i], entries[j]) for i, j in sorted(best)]
    )


def test_pairs_that_a_prefilter_ruled_out_are_not_measured() -> None:
    ids, entries, _cosines = layer_of(20, 3)
    cosines = np.full((20, 20), np.nan)
    cosines[4, 9], cosines[2, 17], cosines[0, 1] = 0.99, -0.5, 0.97
    pairs = pair_signals(ids, entries, cosines)
    assert [(p.first, p.second) for p in pairs] == [
        ("L0_E0", "L0_E1"),
        ("L0_E2", "L0_E17"),
        ("L0_E4", "L0_E9"),
    ]
    assert [p.cosine for p in pairs] == [0.97, -0.5, 0.99]


# --- clusters


def test_a_cluster_is_the_source_and_the_experts_nearest_to_it() -> None:
    affinity = np.array([[9, 1, 5, 3], [1, 9, 0, 0], [5, 0, 2, 7], [3, 0, 7, 9]], float)
    ids = ["a", "b", "c", "d"]
    assert cluster_of(ids, affinity, "a") == ["a", "c", "d"]
    # Its own affinity need not be the largest of its row.
    assert cluster_of(ids, affinity, "c") == ["c", "d", "a"]
    assert cluster_of(ids, affinity, "a", size=1) == ["a"]
    assert cluster_of(ids, affinity, "b", size=9) == ["b", "a", "c", "d"]
