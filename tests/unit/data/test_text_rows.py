from __future__ import annotations

import bz2
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from chronorun.config.data import DataConfig, DecodingErrors, DomainBy, Source, TokenizerConfig
from chronorun.data import load_corpus
from chronorun.errors import UserError

ROWS = [{"text": f"Row {i}: {'word ' * (i % 40)}käse", "n": i} for i in range(400)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
PLAIN = "".join(row["text"] + "\n" for row in ROWS)  # type: ignore[operator]


def as_bytes(name: str) -> bytes:
    """Return the rows, or their text, as a file of this name holds them."""
    name = name.lower()
    stem = name.removesuffix(".gz").removesuffix(".zst")
    if stem.endswith(".parquet"):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        data: bytes = sink.getvalue().to_pybytes()
    elif stem.endswith("l"):
        data = LINES.encode()
    elif stem.endswith(".json"):
        data = json.dumps(ROWS).encode()
    else:
        data = PLAIN.encode()
    if name.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.compress(data) if name.endswith(".zst") else data


NAMES = ["r.jsonl", "r.jsonl.gz", "r.jsonl.zst", "r.json", "r.json.gz", "r.parquet"]
NAMES += ["b.txt.gz", "b.txt.zst", "B.TXT.GZ", "notes.gz", "a[1]::x.jsonl"]


def load(tmp_path: Path, path: Path, **options: object) -> tuple[str, list[str]]:
    config = DataConfig(
        source=Source.text,
        files=[str(path)],
        cache_dir=str(tmp_path / "cache"),
        **options,  # type: ignore[arg-type]
    )
    corpus = load_corpus(config, TokenizerConfig(), min_tokens=65)
    parts = [corpus.split(s).tokens.astype("uint8").tobytes() for s in ("train", "val", "probe")]
    return b"".join(parts).decode(), corpus.notices(config, 65)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_and_line_of_any_format_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(as_bytes(name))
    text, notices = load(tmp_path, path)
    assert sorted(text.splitlines()) == sorted(PLAIN.splitlines())
    assert notices == []


def test_rows_are_taken_from_the_beginning_and_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(LINES)
    text, notices = load(tmp_path, path, max_bytes=10_000)
    assert "Row 0:" in text
    assert "Row 399:" not in text
    assert 9_000 < len(text.encode()) <= 10_000
    assert notices == [
        f"data: the first {len(text.encode()):,} bytes of the text are used, the rest is left out "
        f"(data.max_bytes=10000); raise it to use more"
    ]


def test_equal_rows_share_a_split(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(LINES * 3)
    config = DataConfig(source=Source.text, files=[str(path)], cache_dir=str(tmp_path / "cache"))
    corpus = load_corpus(config, TokenizerConfig())
    lines = [
        set(corpus.split(s).tokens.astype("uint8").tobytes().splitlines())
        for s in ("train", "val", "probe")
    ]
    assert not lines[0] & (lines[1] | lines[2])


def bad_files(tmp_path: Path, case: str) -> tuple[str, bytes, dict[str, object], str]:
    return {
        "column": (
            "r.jsonl",
            LINES.encode(),
            {"column": "body"},
            "has no column body, expected one of n, text; add data.column=text",
        ),
        "number": ("r.parquet", as_bytes("r.parquet"), {"column": "n"}, "column=n of files="),
        "broken": ("r.jsonl", LINES.encode() + b"{oops\n", {}, "cannot be read as jsonl ("),
        "no_gzip": ("r.txt.gz", b"plain text", {}, "cannot be read as gz ("),
        "cut_gzip": ("r.txt.gz", as_bytes("r.txt.gz")[:-20], {}, "cannot be read as gz ("),
        "no_parquet": ("r.parquet", b"PAR1 no more", {}, "cannot be read as parquet ("),
        "latin": ("r.txt.gz", gzip.compress(b"caf\xe9\n" * 900), {}, "is not UTF-8"),
        "nothing": ("r.jsonl", b'{"text": null}\n' * 5, {}, "has 0 bytes in a row"),
    }[case]


CASES = ["column", "number", "broken", "no_gzip", "cut_gzip", "no_parquet", "latin", "nothing"]


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_not_what_its_name_says_is_one_line(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name, data, options, message = bad_files(tmp_path, case)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load(tmp_path, tmp_path / name, **options)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert not list((tmp_path / "cache").iterdir())


def test_a_data_set_of_the_hub_is_read_by_name_and_column(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    pq.write_table(
        pa.Table.from_pylist([{"body": row["text"]} for row in ROWS]), folder / "train.parquet"
    )
    config = DataConfig(
        source=Source.hub, path=str(folder), column="body", cache_dir=str(tmp_path / "cache")
    )
    corpus = load_corpus(config, TokenizerConfig())
    assert corpus.n_bytes == len(PLAIN.encode())
    for option, message in (("split", "has no such part"), ("column", "has no column nothing")):
        wrong = DataConfig(
            source=Source.hub, path=str(folder), **({"column": "body"} | {option: "nothing"})
        )
        wrong.cache_dir = str(tmp_path / "cache")
        with pytest.raises(UserError, match=message):
            load_corpus(wrong, TokenizerConfig())


def test_a_data_set_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    config = DataConfig(source=Source.hub, path="nobody/nothing", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"^data: source=hub \(nobody/nothing\) cannot be reached"):
        load_corpus(config, TokenizerConfig())


def test_a_few_notes_beside_many_rows_cost_no_row(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"note {number}\n" * 9)
    (tmp_path / "r.jsonl").write_text(LINES)
    text, notices = load(tmp_path, tmp_path / "*.*", max_bytes=70_000, domain_by=DomainBy.none)
    assert notices == []
    assert "Row 399:" in text


@pytest.mark.parametrize("place", ["[c]", "c::d", "a?b"])
def test_rows_are_read_with_a_cache_of_any_name(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir()
    (folder / "r.jsonl").write_text(LINES)
    assert load(folder, folder / "r.jsonl")[0].count("Row") == 400


@pytest.mark.parametrize("name", ["r.txt.gz", "r.txt.zst"])
def test_bytes_of_packed_texts_are_replaced_when_asked(tmp_path: Path, name: str) -> None:
    data = b'{"text": "caf\xe9 au lait"}\n' * 900
    packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(packed(data))
    text, _ = load(tmp_path, tmp_path / name, errors=DecodingErrors.replace)
    assert text.count("caf\ufffd au lait") == 900


def test_files_without_a_row_are_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b""))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    text, notices = load(tmp_path, tmp_path / "*")
    assert text.count("Row") == 400
    assert notices == ["data: 2 empty files are left out"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", bz2.compress(b"text"), "is bzip2, which is not read"),
        ("a.txt", gzip.compress(b"text", mtime=0), "is gzip under a name without .gz"),
        (
            "a.tar.gz",
            gzip.compress(b"text", mtime=0),
            "is an archive of files, expected a compressed text",
        ),
    ],
)
def test_what_is_packed_otherwise_is_called_what_it_is(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        load(tmp_path, tmp_path / name)


@pytest.mark.parametrize("name", ["hub[5]", "a::b", "nothing"])
def test_a_folder_that_cannot_be_read_as_a_data_set_is_one_line(tmp_path: Path, name: str) -> None:
    if name != "nothing":
        (tmp_path / name).mkdir()
    config = DataConfig(source=Source.hub, path=str(tmp_path / name))
    config.cache_dir = str(tmp_path / "cache")
    expected = "a data set of the Hub or a folder" if name == "nothing" else "a folder without"
    with pytest.raises(UserError, match=f"^data: path=.*, expected {expected}"):
        load_corpus(config, TokenizerConfig())
