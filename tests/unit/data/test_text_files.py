from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from chronorun.config.data import DataConfig, DecodingErrors, DomainBy, Source, TokenizerConfig
from chronorun.data import TokenizedCorpus, load_corpus
from chronorun.data.files import find_files
from chronorun.errors import UserError

TEXT = "".join(f"Line {i} says {i * i} and ends.\n" for i in range(400))


def named(*names: str | Path, **options: object) -> DataConfig:
    files = [str(name) for name in names]
    return DataConfig(source=Source.text, files=files, **options)  # type: ignore[arg-type]


def write(path: Path, text: str = TEXT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def found(*names: str | Path, **options: object) -> list[str]:
    return [file.path.name for file in find_files(named(*names, **options))[0]]


def load(tmp_path: Path, *names: str | Path, **options: object) -> TokenizedCorpus:
    cache = str(tmp_path / "cache")
    return load_corpus(named(*names, cache_dir=cache, **options), TokenizerConfig())


def whole_text(corpus: TokenizedCorpus) -> str:
    splits = [corpus.split(name).tokens.astype("uint8").tobytes() for name in ("train", "val")]
    return b"".join([*splits, corpus.split("probe").tokens.astype("uint8").tobytes()]).decode()


def test_two_stars_reach_every_depth(tmp_path: Path) -> None:
    for name in ("top", "a/one", "a/b/two", "a/b/c/three"):
        write(tmp_path / "g" / f"{name}.txt")
    assert sorted(found(tmp_path / "g/**/*.txt")) == ["one.txt", "three.txt", "top.txt", "two.txt"]
    # ** alone matches folders, too: they are no files, and no mistake.
    assert len(found(tmp_path / "g/**")) == 4
    assert found(tmp_path / "g/*.txt") == ["top.txt"]


@pytest.mark.parametrize(
    "name", ["a[1].txt", "q?.txt", "s*.txt", "a::b.txt", "${HOME}.txt", "[old] b/c.txt", "~x.txt"]
)
def test_a_name_that_exists_is_taken_literally(tmp_path: Path, name: str) -> None:
    for other in ("a1.txt", "qq.txt", "ss.txt"):
        write(tmp_path / other, "wrong\n" * 2000)
    path = write(tmp_path / name, "right\n" * 2000)
    text = whole_text(load(tmp_path, path))
    assert (text.count("right"), text.count("wrong")) == (2000, 0)


def test_a_file_counts_once_whatever_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d/book.txt")
    (tmp_path / "d/link.txt").symlink_to("book.txt")
    (tmp_path / "d/hard.txt").hardlink_to(tmp_path / "d/book.txt")
    names = ("d/book.txt", tmp_path / "d/book.txt", "d/../d/book.txt", "d/*.txt")
    assert found(*names) == ["book.txt"]


def test_a_copy_lands_in_the_split_of_its_original(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "b.txt")
    corpus = load(tmp_path, tmp_path / "*.txt")
    lines = [
        set(corpus.split(name).tokens.astype("uint8").tobytes().splitlines())
        for name in ("train", "val", "probe")
    ]
    assert not lines[0] & lines[1]
    assert not lines[0] & lines[2]


def test_the_split_does_not_depend_on_where_a_file_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d/book.txt")
    write(tmp_path / "elsewhere/deep/book.txt")
    names = ("d/book.txt", tmp_path / "d/book.txt", "d/../d/book.txt", "elsewhere/deep/book.txt")
    assert len({load(tmp_path, name).corpus_hash for name in names}) == 1


@pytest.mark.parametrize(
    ("by", "domains"),
    [
        (DomainBy.none, ["text"]),
        (DomainBy.file, ["a/x.txt", "b/x.txt", "y.txt"]),
        (DomainBy.folder, ["a", "b"]),
    ],
)
def test_a_domain_is_what_was_asked_for(tmp_path: Path, by: DomainBy, domains: list[str]) -> None:
    for name in ("a/x.txt", "b/x.txt", "b/y.txt"):
        write(tmp_path / name, name + TEXT)
    files = [tmp_path / name for name in ("a/x.txt", "b/x.txt", "b/y.txt")]
    assert load(tmp_path, *files, domain_by=by).domains == domains


def test_a_domain_does_not_tell_where_its_files_lie(tmp_path: Path) -> None:
    for place in ("A", "B"):
        write(tmp_path / place / "r.txt")
        write(tmp_path / place / "s" / "t.txt", TEXT.upper())
    for by in (DomainBy.folder, DomainBy.file):
        hashes = {load(tmp_path, tmp_path / p / "**/*.txt", domain_by=by).corpus_hash for p in "AB"}
        assert len(hashes) == 1
    (tmp_path / "link.txt").symlink_to("A/r.txt")
    names = (tmp_path / "link.txt", tmp_path / "A/r.txt")
    assert len({load(tmp_path, name).corpus_hash for name in names}) == 1


def test_links_to_nowhere_in_a_glob_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    (tmp_path / "dead.txt").symlink_to("nowhere")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    assert found(tmp_path / "*.txt") == ["a.txt"]


def test_empty_files_of_many_are_left_out_and_told(tmp_path: Path) -> None:
    write(tmp_path / "full.txt")
    write(tmp_path / "empty.txt", "")
    config = named(tmp_path / "*.txt", cache_dir=str(tmp_path / "cache"))
    corpus = load_corpus(config, TokenizerConfig())
    assert corpus.domains == ["full.txt"]
    assert corpus.notices(config, 65) == ["data: 1 empty files are left out"]


def odd_files(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "utf16.txt").write_bytes(TEXT.encode("utf-16"))
    (tmp_path / "binary.txt").write_bytes(b"PK\x00\x01\xff" * 900)
    return {
        "dangling": (tmp_path / "dangling", "is a link to nowhere, which does not exist"),
        "loop": (tmp_path / "loop", "is a link that leads to itself"),
        "pipe": (tmp_path / "pipe.txt", "is a pipe, expected a text file; write its content to a"),
        "device": (Path("/dev/null"), "is a device, expected a text file"),
        "long": (tmp_path / ("x" * 300), "does not exist, expected a text file or a glob"),
        "nul": (tmp_path / "a\0b", "does not exist, expected a text file or a glob"),
        "user": (Path("~nosuchuser/x.txt"), "begins with ~nosuchuser, whose home folder is not"),
        "utf16": (tmp_path / "utf16.txt", "is UTF-16, expected UTF-8 text; convert it"),
        "binary": (tmp_path / "binary.txt", "holds NUL bytes, as files that are not text do"),
    }


@pytest.mark.parametrize(
    "case", ["dangling", "loop", "pipe", "device", "long", "nul", "user", "utf16", "binary"]
)
def test_what_is_no_text_file_is_called_what_it_is(tmp_path: Path, case: str) -> None:
    path, message = odd_files(tmp_path)[case]
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load(tmp_path, path)
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    write(path)
    corpus = load(tmp_path, tmp_path / "caf*.txt")
    assert corpus.domains == ["caf\ufffd.txt"]


def test_bytes_that_are_not_utf8_are_replaced_when_asked(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait\n" * 900)
    corpus = load(tmp_path, tmp_path / "latin.txt", errors=DecodingErrors.replace)
    assert whole_text(corpus).count("caf\ufffd au lait") == 900


def test_marks_and_line_ends_of_other_systems_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert sorted(whole_text(load(tmp_path, tmp_path / "dos.txt")).splitlines()) == sorted(
        TEXT.splitlines()
    )


def test_a_file_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "book.txt")

    def refused(self: Path, mode: str = "r") -> None:
        raise PermissionError(13, "Permission denied", str(self))

    config = named(path, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\), expected a text"):
        load_corpus(config, TokenizerConfig())
