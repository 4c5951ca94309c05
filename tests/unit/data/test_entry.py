from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from chronorun.config.data import DataConfig, Source, TokenizerConfig, TokenizerKind
from chronorun.data import TokenizedCorpus, entry, load_corpus, text_source
from chronorun.data.documents import Document
from chronorun.data.source import Reading
from chronorun.errors import StorageError, UserError

BYTE, BPE = TokenizerConfig(), TokenizerConfig(kind=TokenizerKind.bpe, vocab_size=300)


class Silent:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[int] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    def advance(self, done_bytes: int, expected_bytes: int) -> None:
        self.done.append(done_bytes)

    def close(self) -> None:
        self.lines.append("closed")


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a megabyte be as large to the code as tens of gigabytes."""
    monkeypatch.setattr(entry, "IN_MEMORY_BYTES", 100_000)
    monkeypatch.setattr(entry, "_BATCH_BYTES", 50_000)
    monkeypatch.setattr(text_source, "_READ_WHOLE_BYTES", 100_000)
    monkeypatch.setattr(text_source, "_STRETCH", 4_000)


@pytest.fixture
def files(tmp_path: Path) -> DataConfig:
    for name, letter in (("a.txt", "a"), ("b.txt", "ä")):
        lines = (f"{letter} line {i} of {i * i}\n" for i in range(10_000))
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    rows = (json.dumps({"text": f"row {i} says {i * 7}"}) + "\n" for i in range(6_000))
    (tmp_path / "c.jsonl").write_text("".join(rows))
    return DataConfig(
        source=Source.text,
        files=[str(tmp_path / name) for name in ("a.txt", "b.txt", "c.jsonl")],
        max_bytes=50_000_000,
        cache_dir=str(tmp_path / "cache"),
    )


def tokens(corpus: TokenizedCorpus) -> list[np.ndarray]:
    return [np.asarray(corpus.split(name).tokens) for name in ("train", "val", "probe")]


def lines_of(corpus: TokenizedCorpus, split: str, domain: str) -> list[bytes]:
    held = corpus.split(split).domain_tokens(domain)
    return held.astype("uint8").tobytes().splitlines()


def test_a_streamed_corpus_holds_every_line_once(files: DataConfig) -> None:
    corpus = load_corpus(files, BYTE, progress=Silent())
    assert corpus.domains == ["a.txt", "b.txt", "c.jsonl"]
    for domain, path in zip(corpus.domains, files.files, strict=True):
        found = [lines_of(corpus, split, domain) for split in ("train", "val", "probe")]
        want = Path(path).read_text(encoding="utf-8").splitlines()
        if path.endswith("jsonl"):
            want = [json.loads(line)["text"] for line in want]
        assert sorted(itertools.chain(*found)) == sorted(line.encode() for line in want)
        assert not set(found[0]) & (set(found[1]) | set(found[2]))
    sizes = [len(part) for part in tokens(corpus)]
    assert 0.02 < sizes[1] / sum(sizes) < 0.09
    assert corpus.n_bytes == sum(sizes)
    assert 1.0 < corpus.bigram_nats < 2.5


@pytest.mark.parametrize("tokenizer", [BYTE, BPE])
def test_an_interrupted_corpus_goes_on_where_it_was(
    files: DataConfig, tokenizer: TokenizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_corpus(files, tokenizer, progress=Silent())
    append, calls = entry._append, 0

    def killed(*args: object) -> None:
        nonlocal calls
        calls += 1
        append(*args)  # type: ignore[arg-type]
        if calls == 6:  # tokens are written, and what they are is not yet
            raise KeyboardInterrupt

    files.cache_dir = str(tmp_path / "other")
    monkeypatch.setattr(entry, "_append", killed)
    with pytest.raises(KeyboardInterrupt):
        load_corpus(files, tokenizer, progress=Silent())
    monkeypatch.setattr(entry, "_append", append)
    progress = Silent()
    again = load_corpus(files, tokenizer, progress=progress)
    assert again.corpus_hash == whole.corpus_hash
    for part, want in zip(tokens(again), tokens(whole), strict=True):
        np.testing.assert_array_equal(part, want)
    assert progress.done[0] > 5 * 50_000
    told = [line for line in progress.lines if line.startswith("going on after")]
    assert re.fullmatch(r"going on after [\d,]+ bytes of text that are tokenised already", told[0])
    assert [path.name for path in (tmp_path / "other").iterdir()] == [again.folder.name]


def test_a_part_that_lost_its_end_is_made_anew(
    files: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_corpus(files, BYTE, progress=Silent())
    files.cache_dir = str(tmp_path / "other")
    monkeypatch.setattr(entry, "_join_parts", lambda *args: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        load_corpus(files, BYTE, progress=Silent())
    part = next((tmp_path / "other").glob(".making-*/*.part"))
    part.write_bytes(part.read_bytes()[:-100])
    monkeypatch.undo()
    monkeypatch.setattr(entry, "IN_MEMORY_BYTES", 100_000)
    monkeypatch.setattr(text_source, "_READ_WHOLE_BYTES", 100_000)
    monkeypatch.setattr(text_source, "_STRETCH", 4_000)
    assert len(tokens(load_corpus(files, BYTE, progress=Silent()))[0]) == len(tokens(whole)[0])


def test_a_large_text_is_sampled_evenly_without_reading_the_rest(files: DataConfig) -> None:
    files.files, files.max_bytes = files.files[:2], 200_000
    corpus = load_corpus(files, BYTE, progress=Silent())
    taken = [
        sum(len(b"\n".join(lines_of(corpus, split, domain))) for split in ("train", "val", "probe"))
        for domain in corpus.domains
    ]
    assert all(60_000 < size < 140_000 for size in taken)
    assert corpus.n_bytes <= 200_000
    last = [line for line in lines_of(corpus, "train", "a.txt") if line.startswith(b"a line 9")]
    assert last, "a sample stands for the end of a file, too"
    (notice,) = corpus.notices(files, 65)
    assert re.search(r"^data: 1\d\d,\d{3} of [34]\d\d,\d{3} bytes of the text are used", notice)


def test_the_whole_of_a_long_line_is_read(tmp_path: Path) -> None:
    text = "字" * 100_000
    (tmp_path / "line.txt").write_text(text, encoding="utf-8")
    config = DataConfig(
        source=Source.text,
        files=[str(tmp_path / "line.txt")],
        max_bytes=50_000_000,
        cache_dir=str(tmp_path / "cache"),
    )
    corpus = load_corpus(config, BYTE, progress=Silent())
    assert sum(map(len, tokens(corpus))) == len(text.encode())
    for split in ("train", "val", "probe"):
        held = corpus.split(split).tokens.astype("uint8").tobytes()
        assert set(held.decode()) == {"字"}


def test_memory_stays_flat_however_large_the_text(
    files: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "_BIGRAM_TOKENS", 10_000)

    def peak(n_documents: int) -> int:
        work = tmp_path / str(n_documents)
        work.mkdir()
        documents = (Document(f"d{i}", "text", f"row {i} " * 100) for i in range(n_documents))
        tracemalloc.start()
        entry.make_entry(work, Reading(documents), files, BYTE, lambda sizes: None, Silent())
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    assert peak(8_000) < 1.2 * peak(2_000)


def test_an_error_leaves_nothing_behind(files: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text((tmp_path / "c.jsonl").read_text() + "{oops\n")
    with pytest.raises(UserError, match="cannot be read as jsonl"):
        load_corpus(files, BYTE, progress=Silent())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_is_one_line_that_names_the_cache(
    files: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(entry, "_append", full)
    with pytest.raises(StorageError) as error:
        load_corpus(files, BYTE, progress=Silent())
    assert str(error.value) == (
        f"cache: {files.cache_dir} cannot be written (No space left on device); "
        f"free some space or set data.cache_dir=FOLDER"
    )


def test_small_fractions_of_a_streamed_corpus_leave_no_split_empty(files: DataConfig) -> None:
    files.val_fraction = files.probe_fraction = 0.0001
    corpus = load_corpus(files, BYTE, progress=Silent())
    assert all(len(part) > 0 for part in tokens(corpus))


def test_what_is_interrupted_at_the_very_end_is_not_lost(
    files: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(entry, "bigram_nats_per_token", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_corpus(files, BYTE, progress=Silent())
    progress = Silent()
    corpus = load_corpus(files, BYTE, progress=progress)
    assert progress.done == []  # nothing was tokenised again
    assert sorted(path.name for path in corpus.folder.iterdir()) == [
        "meta.json",
        "probe.bin",
        "tokenizer.json",
        "train.bin",
        "val.bin",
    ]
