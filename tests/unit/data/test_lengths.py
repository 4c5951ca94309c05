from __future__ import annotations

import re
from pathlib import Path

import pytest

from chronorun.config.data import DataConfig, DomainBy, Source, TokenizerConfig, TokenizerKind
from chronorun.data import load_corpus, tokenizer
from chronorun.errors import UserError

BYTE, BPE = TokenizerConfig(), TokenizerConfig(kind=TokenizerKind.bpe, vocab_size=300)
LINE = "the quick brown fox jumps over the lazy dog {}\n"


def config_of(tmp_path: Path, n_bytes: int, **options: object) -> DataConfig:
    path = tmp_path / f"{n_bytes}.txt"
    path.write_text("".join(LINE.format(i) for i in range(n_bytes // 40))[:n_bytes])
    return DataConfig(
        source=Source.text,
        files=[str(path)],
        cache_dir=str(tmp_path / "cache"),
        **options,  # type: ignore[arg-type]
    )


def refusal(config: DataConfig, min_tokens: int, cut_by: TokenizerConfig = BYTE) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(config, cut_by, min_tokens=min_tokens)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_more_text_helps_where_that_is_the_advice(tmp_path: Path) -> None:
    message = refusal(config_of(tmp_path, 500), 129)
    found = re.search(r"expected at least 129 \(.*\); add text, to ([\d,]+) bytes", message)
    assert found is not None, message
    load_corpus(config_of(tmp_path, int(found[1].replace(",", ""))), BYTE, min_tokens=129)


def test_a_shorter_context_helps_where_that_is_the_advice(tmp_path: Path) -> None:
    config = config_of(tmp_path, 2000)
    found = re.search(r"lower model.context_length to (\d+)$", refusal(config, 1025))
    assert found is not None
    load_corpus(config, BYTE, min_tokens=int(found[1]) + 1)


def test_a_larger_fraction_helps_where_that_is_the_advice(tmp_path: Path) -> None:
    message = refusal(config_of(tmp_path, 200_000), 9000)
    found = re.search(r"add data\.(\w+)_fraction=([\d.]+)", message)
    assert found is not None, message
    options: dict[str, object] = {f"{name}_fraction": float(found[2]) for name in ("val", "probe")}
    load_corpus(config_of(tmp_path, 200_000, **options), BYTE, min_tokens=9000)


def test_a_larger_cap_helps_where_that_is_the_advice(tmp_path: Path) -> None:
    message = refusal(config_of(tmp_path, 90_000, max_bytes=400), 129)
    found = re.search(r"raise data\.max_bytes to (\d+)", message)
    assert found is not None, message
    load_corpus(config_of(tmp_path, 90_000, max_bytes=int(found[1])), BYTE, min_tokens=129)


def test_one_pool_helps_where_every_file_is_too_short_by_itself(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text(LINE.format(number) * 5)
    config = DataConfig(
        source=Source.text, files=[str(tmp_path / "*.txt")], cache_dir=str(tmp_path / "cache")
    )
    assert refusal(config, 129).split("; ")[1].startswith("add data.domain_by=none")
    config.domain_by = DomainBy.none
    load_corpus(config, BYTE, min_tokens=129)


def test_what_is_too_short_is_refused_before_it_is_tokenised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("tokenised in vain")

    monkeypatch.setattr(tokenizer, "_train_bpe", never)
    message = refusal(config_of(tmp_path, 400), 129, BPE)
    assert "bytes, which are fewer tokens, in a row, expected at least 129" in message


def test_a_split_of_too_few_tokens_is_refused_after_it(tmp_path: Path) -> None:
    message = refusal(config_of(tmp_path, 1200), 150, BPE)
    found = re.search(r"has (\d+) tokens in a row, expected at least 150 .* to ([\d,]+) b", message)
    assert found is not None, message
    load_corpus(config_of(tmp_path, int(found[2].replace(",", ""))), BPE, min_tokens=150)
