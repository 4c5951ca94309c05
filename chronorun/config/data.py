"""Where the text comes from (group ``data``) and how it becomes tokens (group ``tokenizer``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option
from chronorun.errors import UserError


class Source(Enum):
    """The corpora that ``data=`` offers."""

    stdlib = "stdlib"
    text = "text"
    sotu = "sotu"
    tinystories = "tinystories"
    tinyshakespeare = "tinyshakespeare"
    synthetic = "synthetic"


class TokenizerKind(Enum):
    """Ways to cut text into tokens."""

    byte = "byte"
    bpe = "bpe"


@dataclass
class DataConfig:
    """Corpus, splits and cache."""

    source: Source = option(Source.stdlib, "corpus to train on")
    files: list[str] = option([], "text files or globs, for source=text")
    max_bytes: int = option(
        12_000_000, "take at most this much text of the corpus", unit="bytes", at_least=1
    )
    val_fraction: float = option(
        0.05, "share of documents kept for validation", above=0.0, below=0.5
    )
    probe_fraction: float = option(
        0.02, "share of documents kept for measuring structural edits", above=0.0, below=0.5
    )
    split_seed: int = option(0, "seed of the document split (not of the run)", at_least=0)
    cache_dir: str | None = option(
        None, "folder for tokenised corpora (null: $CHRONORUN_CACHE or the user's cache folder)"
    )
    synthetic_domains: int = option(2, "planted domains, for source=synthetic", at_least=1)
    synthetic_seed: int = option(0, "seed of the synthetic corpus", at_least=0)

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        if self.source is Source.text and not self.files:
            raise UserError(
                "configuration: data.files is empty, expected one or more files for data=text; "
                "add data.files=book.txt"
            )


@dataclass
class TokenizerConfig:
    """How text becomes tokens."""

    kind: TokenizerKind = option(TokenizerKind.byte, "byte: one token a byte; bpe: trained")
    vocab_size: int = option(
        1024, "vocabulary of the bpe tokenizer (byte always has 256)", at_least=257, at_most=65536
    )

    def __post_init__(self) -> None:
        check_ranges(self, "tokenizer")
