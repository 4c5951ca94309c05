from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from chronorun.config.data import DataConfig, Source
from chronorun.data.blocks import block_bytes, cut_blocks, quota_bytes
from chronorun.data.documents import (
    Document,
    assign_splits,
    cap_documents,
    cut_long,
    split_by_hash,
    split_documents,
)
from chronorun.errors import UserError

SPLITS = {"train", "val", "probe"}


def parts(documents: list[Document], config: DataConfig) -> Counter[str]:
    """Count the bytes of each split, after what is done to a text of the user's own."""
    kept = cap_documents(cut_long(documents, config), config)
    cut, splits = split_documents(kept, config)
    sizes: Counter[str] = Counter()
    for document in cut:
        sizes[splits[document.name]] += document.n_bytes
    return sizes


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(500, 3_000_000),
    width=st.sampled_from([1, 7, 20, 80, 400, 5000, 10**7]),
    letter=st.sampled_from(["x", "é", "字", "🙂"]),
    val=st.sampled_from([0.001, 0.02, 0.05, 0.2]),
    probe=st.sampled_from([0.001, 0.01, 0.02, 0.3]),
)
def test_a_text_of_any_size_and_script_has_three_splits(
    size: int, width: int, letter: str, val: float, probe: float
) -> None:
    config = DataConfig(
        source=Source.text, files=["x"], val_fraction=val, probe_fraction=probe, max_bytes=10**9
    )
    text = ((letter * (width - 1) + "\n") * (size // width + 1))[: size // len(letter.encode())]
    found = parts([Document("x", "text", text)], config)
    assert set(found) == SPLITS
    assert sum(found.values()) == len(text.encode())
    for split, fraction in (("val", val), ("probe", probe)):
        quota = quota_bytes(len(text.encode()), fraction)
        assert 0.5 * quota <= found[split] <= 1.5 * quota + 4


@pytest.mark.parametrize("fractions", [(0.4, 0.4), (0.45, 0.3), (0.1, 0.49), (0.49, 0.02)])
@pytest.mark.parametrize("size", [1000, 20_000, 219_000, 2_000_000])
def test_large_fractions_leave_a_part_to_train_on(
    fractions: tuple[float, float], size: int
) -> None:
    val, probe = fractions
    config = DataConfig(source=Source.text, files=["x"], val_fraction=val, probe_fraction=probe)
    found = parts([Document("x", "text", ("x" * 19 + "\n") * (size // 20))], config)
    assert found["train"] >= 0.4 * (1 - val - probe) * size


def test_fractions_that_leave_too_little_to_train_on_are_refused() -> None:
    with pytest.raises(UserError, match=r"together, expected at most 0.8; lower one of the two$"):
        DataConfig(val_fraction=0.49, probe_fraction=0.49)


@pytest.mark.parametrize(
    "sizes",
    [[3000] * 200, [10 * i for i in range(300)], [1], [40] * 3, [1_000_000, 200, 50], [9_000] * 12],
)
@pytest.mark.parametrize("same", [True, False])
def test_any_collection_of_documents_has_three_splits(sizes: list[int], same: bool) -> None:
    documents = [
        Document("same" if same else f"d{i}", "text", ("a line\n" * size)[: size + 10])
        for i, size in enumerate(sizes)
    ]
    assert set(parts(documents, DataConfig(source=Source.text, files=["x"]))) == SPLITS


def test_a_small_cap_of_long_documents_leaves_three_splits() -> None:
    documents = [Document(f"speech{i}", "speech", "my fellow citizens\n" * 2500) for i in range(9)]
    config = DataConfig(source=Source.sotu, max_bytes=50_000)
    kept = cap_documents(documents, config)
    cut, splits = split_documents(kept, config)
    assert {splits[document.name] for document in cut} == SPLITS
    assert sum(document.n_bytes for document in cut) <= 50_000


def test_whole_documents_stay_whole_where_that_is_possible() -> None:
    documents = [Document(f"note{i}", "text", f"note {i}\n" * 300) for i in range(100)]
    config = DataConfig(source=Source.text, files=["x"])
    cut, splits = split_documents(cut_long(documents, config), config)
    assert cut == documents
    assert set(splits.values()) == SPLITS


def test_a_line_without_an_end_is_capped_too() -> None:
    config = DataConfig(source=Source.text, files=["x"], max_bytes=1000)
    kept = cap_documents([Document("one", "text", "x" * 5000)], config)
    assert [len(document.text) for document in kept] == [1000]


def test_blocks_are_small_enough_for_the_smallest_split() -> None:
    config = DataConfig(val_fraction=0.05, probe_fraction=0.001)
    for size in (1000, 60_000, 1_000_000, 300_000_000):
        assert 3 * block_bytes(size, config) <= quota_bytes(size, 0.001)
    longest = max(len(block.encode()) for block in cut_blocks("字" * 100_000, 3000))
    assert longest <= 6000


def test_a_streamed_corpus_is_split_in_the_shares_asked_for() -> None:
    config = DataConfig(val_fraction=0.1, probe_fraction=0.05)
    found = Counter(split_by_hash(f"name{i}", config) for i in range(20_000))
    assert found["val"] == pytest.approx(2000, rel=0.1)
    assert found["probe"] == pytest.approx(1000, rel=0.15)
    again = Counter(split_by_hash(f"name{i}", config) for i in range(20_000))
    assert found == again


def test_names_decide_the_split_and_not_the_order() -> None:
    documents = [Document(f"d{i}", "text", "some words\n" * 90) for i in range(80)]
    config = DataConfig()
    assert assign_splits(documents, config) == assign_splits(documents[::-1], config)
