"""Basin entries against token-by-token counting; the rolling window; merged histories."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from chronorun.lifecycle.experts.basins import (
    CO_ACTIVATIONS_KEPT,
    BasinEntry,
    BasinHistory,
    basin_entries,
    basin_records,
    entropy_term,
    merge_entries,
)

BUCKETS, PLACES = 5, 16
Token = tuple[frozenset[int], int, int]
"""Experts chosen, token type, position bucket."""


@st.composite
def windows(draw: st.DrawFn, top_k: int | None = None) -> tuple[int, list[Token]]:
    """A number of experts and the tokens of a window, each sent to top-k of them."""
    n = draw(st.integers(2, 5))
    k = top_k or draw(st.integers(1, 2))
    token = st.tuples(
        st.sets(st.integers(0, n - 1), min_size=k, max_size=k).map(frozenset),
        st.integers(0, BUCKETS - 1),
        st.integers(0, PLACES - 1),
    )
    return n, draw(st.lists(token, max_size=30))


def counts_of(
    n: int, tokens: list[Token]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    types = np.zeros((n, BUCKETS), np.int64)
    places = np.zeros((n, PLACES), np.int64)
    together = np.zeros((n, n), np.int64)
    for chosen, kind, place in tokens:
        for i in chosen:
            types[i, kind] += 1
            places[i, place] += 1
            for j in chosen:
                together[i, j] += 1
    return types, places, together


def entries_of(n: int, tokens: list[Token]) -> list[BasinEntry]:
    ids = [f"L0_E{i}" for i in range(n)]
    norms, deltas = [1.0 + i for i in range(n)], [0.1 * i for i in range(n)]
    return basin_entries(30, 3, ids, *counts_of(n, tokens), norms, deltas)


def entry_of(
    checkpoint: int,
    share: float = 0.25,
    types: tuple[float, ...] = (1.0, 0.0),
    together: dict[str, float] | None = None,
) -> BasinEntry:
    return BasinEntry(
        step=checkpoint * 10,
        checkpoint=checkpoint,
        share=share,
        entropy_contribution=entropy_term(share),
        token_type_dist=np.array(types),
        position_dist=np.array([1.0]),
        co_activation=dict(together or {}),
        weight_norm=3.0,
        weight_delta=0.5,
    )


# --- entries


@given(window=windows())
def test_entries_say_what_counting_token_by_token_says(window: tuple[int, list[Token]]) -> None:
    n, tokens = window
    assignments = sum(len(chosen) for chosen, _kind, _place in tokens)
    for i, entry in enumerate(entries_of(n, tokens)):
        mine = [t for t in tokens if i in t[0]]
        kinds, places = Counter(t[1] for t in mine), Counter(t[2] for t in mine)
        others = Counter(j for t in mine for j in t[0] if j != i)
        assert entry.share == (len(mine) / assignments if assignments else 0.0)
        assert entry.token_type_dist.tolist() == [
            kinds[b] / len(mine) if mine else 0.0 for b in range(BUCKETS)
        ]
        assert entry.position_dist.tolist() == [
            places[b] / len(mine) if mine else 0.0 for b in range(PLACES)
        ]
        assert entry.co_activation == {f"L0_E{j}": c / len(mine) for j, c in others.items()}
        assert (entry.step, entry.checkpoint) == (30, 3)
        assert (entry.weight_norm, entry.weight_delta) == (1.0 + i, 0.1 * i)


@given(window=windows())
def test_entropy_contributions_add_up_to_the_entropy_of_the_load(
    window: tuple[int, list[Token]],
) -> None:
    entries = entries_of(*window)
    shares = np.array([e.share for e in entries])
    used = shares[shares > 0]
    total = sum(e.entropy_contribution for e in entries)
    assert total == pytest.approx(-(used * np.log(used)).sum())
    assert all(e.entropy_contribution == 0.0 for e in entries if e.share in (0.0, 1.0))


@pytest.mark.parametrize(
    ("share", "nats"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5 * math.log(2)), (0.25, math.log(4) / 4)]
)
def test_the_entropy_term_is_minus_share_ln_share(share: float, nats: float) -> None:
    assert entropy_term(share) == pytest.approx(nats, abs=0.0)


def test_a_window_without_tokens_gives_empty_entries() -> None:
    for entry in entries_of(3, []):
        assert (entry.share, entry.entropy_contribution, entry.co_activation) == (0.0, 0.0, {})
        assert not entry.token_type_dist.any()
        assert not entry.position_dist.any()


def test_of_many_companions_the_most_frequent_are_kept_the_lower_slot_at_a_tie() -> None:
    n = CO_ACTIVATIONS_KEPT + 4
    together = np.zeros((n, n), np.int64)
    together[0] = [100, *([2] * (n - 2)), 9]
    entry = basin_entries(
        0, 0, [f"e{i}" for i in range(n)], np.ones((n, 2), np.int64), np.ones((n, 2), np.int64),
        together, [0.0] * n, [0.0] * n,
    )[0]  # fmt: skip
    kept = [f"e{i}" for i in range(1, CO_ACTIVATIONS_KEPT)]
    assert entry.co_activation == dict.fromkeys(kept, 0.02) | {f"e{n - 1}": 0.09}


def test_a_line_of_the_log_is_json_with_rounded_histograms() -> None:
    entry = entry_of(2, types=(1 / 3, 0.0, 2 / 3), together={"L0_E1": 1 / 3})
    (line,) = json.loads(json.dumps(basin_records(1, ["L1_E4"], [entry])))
    assert line == {
        "step": 20,
        "checkpoint": 2,
        "layer_id": 1,
        "expert_id": "L1_E4",
        "share": 0.25,
        "entropy_contribution": 0.25 * math.log(4),
        "token_type_dist": [0.333333, 0, 0.666667],
        "position_dist": [1.0],
        "co_activation": {"L0_E1": 1 / 3},
        "weight_norm": 3.0,
        "weight_delta": 0.5,
    }


@given(
    dist=st.lists(
        st.one_of(
            st.just(0.0),
            st.floats(0.0, 1.0),
            # Around halves of the last digit that is kept.
            st.integers(0, 999_999).map(lambda k: (k + 0.5) / 1e6),
            st.integers(1, 999_999).map(lambda k: math.nextafter((k + 0.5) / 1e6, k % 2)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_histograms_are_rounded_as_python_rounds(dist: list[float]) -> None:
    entry = entry_of(0, types=tuple(dist))
    (line,) = basin_records(0, ["L0_E0"], [entry])
    expected = [round(x, 6) if x else 0 for x in dist]
    assert line["token_type_dist"] == expected
    # 0 and 0.0 are equal, but not in the file.
    assert [type(x) for x in line["token_type_dist"]] == [type(x) for x in expected]


# --- the window


@given(size=st.integers(1, 6), n=st.integers(0, 15))
def test_a_history_keeps_the_newest_entries_oldest_first(size: int, n: int) -> None:
    history = BasinHistory(size)
    for checkpoint in range(n):
        history.append(entry_of(checkpoint))
    assert [e.checkpoint for e in history.entries] == list(range(n))[-size:]
    assert history.window_size == size
    assert (history.latest and history.latest.checkpoint) == (n - 1 if n else None)


def test_the_latest_used_entry_is_the_newest_one_with_share() -> None:
    history = BasinHistory(5, [entry_of(0, 0.3), entry_of(1, 0.2), entry_of(2, 0.0)])
    assert history.latest is not None
    assert history.latest.checkpoint == 2
    assert history.latest_used is not None
    assert history.latest_used.checkpoint == 1
    assert BasinHistory(5, [entry_of(0, 0.0)]).latest_used is None


@given(window=windows(), size=st.integers(1, 4))
def test_a_history_read_back_from_json_is_exactly_the_same(
    window: tuple[int, list[Token]], size: int
) -> None:
    history = BasinHistory(size, entries_of(*window))
    loaded = BasinHistory.from_state_dict(json.loads(json.dumps(history.state_dict())))
    assert loaded.window_size == size
    assert len(loaded.entries) == len(history.entries)
    for mine, theirs in zip(history.entries, loaded.entries, strict=True):
        assert mine.token_type_dist.tobytes() == theirs.token_type_dist.tobytes()
        assert mine.position_dist.tobytes() == theirs.position_dist.tobytes()
        same = ("step", "checkpoint", "share", "entropy_contribution", "co_activation")
        same += ("weight_norm", "weight_delta")
        assert [getattr(mine, name) for name in same] == [getattr(theirs, name) for name in same]
    assert loaded.state_dict() == history.state_dict()


# --- merges


@given(window=windows(top_k=1))
def test_a_merged_entry_is_that_of_an_expert_which_got_both_ones_tokens(
    window: tuple[int, list[Token]],
) -> None:
    n, tokens = window
    first, second = entries_of(n, tokens)[:2]
    pooled = [(frozenset(0 if i == 1 else i for i in t[0]), t[1], t[2]) for t in tokens]
    expected = entries_of(n, pooled)[0]
    merged = merge_entries(first, second)
    assert merged.share == pytest.approx(expected.share)
    assert merged.entropy_contribution == pytest.approx(expected.entropy_contribution, abs=1e-12)
    assert merged.token_type_dist == pytest.approx(expected.token_type_dist)
    assert merged.position_dist == pytest.approx(expected.position_dist)


def test_co_activation_of_a_merge_is_weighted_by_share() -> None:
    survivor = entry_of(1, 0.3, together={"a": 0.5, "b": 0.2})
    absorbed = entry_of(1, 0.1, together={"a": 0.1, "c": 0.4})
    merged = merge_entries(survivor, absorbed)
    assert merged.co_activation == pytest.approx({"a": 0.4, "b": 0.15, "c": 0.1})
    assert (merged.weight_norm, merged.weight_delta) == (3.0, 0.5)


def test_an_absorbed_expert_without_tokens_adds_nothing_to_the_merge() -> None:
    survivor = entry_of(1, 0.3, (0.25, 0.75), {"a": 0.5})
    merged = merge_entries(survivor, entry_of(1, 0.0, (0.0, 0.0)))
    assert merged.share == 0.3
    assert merged.token_type_dist.tolist() == [0.25, 0.75]
    assert merged.co_activation == {"a": 0.5}


def test_two_experts_without_tokens_merge_into_one_without() -> None:
    merged = merge_entries(entry_of(1, 0.0, (0.0, 0.0)), entry_of(1, 0.0, (0.0, 0.0)))
    assert (merged.share, merged.entropy_contribution) == (0.0, 0.0)
    assert merged.token_type_dist.tolist() == [0.0, 0.0]


def test_a_merged_history_covers_the_checkpoints_of_both_within_the_window() -> None:
    survivor = BasinHistory(3, [entry_of(4, 0.4), entry_of(5, 0.4)])
    absorbed = BasinHistory(3, [entry_of(2, 0.1), entry_of(3, 0.1), entry_of(5, 0.2)])
    merged = survivor.merged_with(absorbed)
    assert merged.window_size == 3
    assert [e.checkpoint for e in merged.entries] == [3, 4, 5]
    assert [e.share for e in merged.entries] == pytest.approx([0.1, 0.4, 0.6])
    assert [e.checkpoint for e in survivor.entries] == [4, 5]
    assert [e.checkpoint for e in absorbed.entries] == [2, 3, 5]


def test_of_an_expert_that_left_only_the_newest_used_histograms_stay() -> None:
    rows = np.array([[0.25, 0.75], [0.5, 0.5]])
    used = replace(entry_of(2, 0.2, together={"a": 0.5}), token_type_dist=rows[0])
    history = BasinHistory(3, [entry_of(1, 0.1), used, entry_of(3, 0.0, (0.0, 0.0))])
    figures = [(e.checkpoint, e.share, e.weight_norm, e.weight_delta) for e in history.entries]
    history.thin_out()
    first, known, last = history.entries
    assert history.latest_used is known
    assert (known.token_type_dist.tolist(), known.co_activation) == ([0.25, 0.75], {"a": 0.5})
    # Not a row that keeps the histograms of a whole layer in memory.
    assert known.token_type_dist.base is None
    assert first.token_type_dist is last.token_type_dist
    assert (first.token_type_dist.tolist(), first.co_activation) == ([0.0, 0.0], {})
    again = BasinHistory.from_state_dict(json.loads(json.dumps(history.state_dict())))
    for found in (history, again):
        assert figures == [
            (e.checkpoint, e.share, e.weight_norm, e.weight_delta) for e in found.entries
        ]
    assert again.entries[0].token_type_dist is again.entries[2].token_type_dist
    assert again.state_dict() == history.state_dict()


def test_a_forgotten_histogram_has_no_weight_in_a_merge() -> None:
    forgotten = replace(entry_of(1, 0.3), token_type_dist=np.zeros(2))
    known = entry_of(1, 0.1, (0.25, 0.75))
    for pair in ((forgotten, known), (known, forgotten)):
        merged = merge_entries(*pair)
        assert merged.share == pytest.approx(0.4)
        assert merged.token_type_dist.tolist() == [0.25, 0.75]
