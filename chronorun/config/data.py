"""The corpus (group ``data``) and how it becomes tokens (group ``tokenizer``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option
from chronorun.errors import UserError

LARGEST_SYNTHETIC = 1 << 36
"""Maximum bytes of synthetic text, which is generated in memory."""


class Source(Enum):
    """Kinds of corpora."""

    stdlib = "stdlib"
    text = "text"
    sotu = "sotu"
    tinystories = "tinystories"
    tinyshakespeare = "tinyshakespeare"
    synthetic = "synthetic"
    hub = "hub"


class DomainBy(Enum):
    """What makes a domain of the files of ``data=text``."""

    file = "file"
    folder = "folder"
    none = "none"


class DecodingErrors(Enum):
    """How bytes of ``data=text`` that are not UTF-8 are handled, by Python's names."""

    strict = "strict"
    replace = "replace"


class TokenizerKind(Enum):
    """Ways to cut text into tokens."""

    byte = "byte"
    bpe = "bpe"


@dataclass
class DataConfig:
    """Corpus, splits and cache."""

    source: Source = option(Source.stdlib, "corpus to train on")
    files: list[str] = option(
        [],
        "files or globs (** stands for any number of folders), for source=text: plain text,"
        " also .gz and .zst; rows of .jsonl, .json and .parquet",
        free_on_resume=True,
    )
    domain_by: DomainBy = option(
        DomainBy.file, "what makes a domain, for source=text (none in conf/data/text.yaml)"
    )
    errors: DecodingErrors = option(
        DecodingErrors.strict,
        "what to do with bytes that are not UTF-8, for texts of source=text: refuse or replace",
    )
    path: str | None = option(
        None, "data set of the Hub, or a folder that holds one, for source=hub", free_on_resume=True
    )
    name: str | None = option(None, "configuration of the data set, for source=hub")
    split: str = option("train", "split of the data set to read, for source=hub")
    column: str = option("text", "column that holds the text, for rows of files and of the Hub")
    max_bytes: int = option(
        12_000_000, "maximum amount of text to take from the corpus", unit="bytes", at_least=1
    )
    accept_changes: bool = option(
        False,
        "resume with the run's own tokenizer although the corpus has changed since",
        free_on_resume=True,
    )
    val_fraction: float = option(
        0.05, "share of documents kept for validation", above=0.0, below=0.5
    )
    probe_fraction: float = option(
        0.02, "share of documents kept for measuring edits of the population", above=0.0, below=0.5
    )
    split_seed: int = option(0, "seed of the document split (not of the run)", at_least=0)
    cache_dir: str | None = option(
        None,
        "folder for tokenised corpora (null: $CHRONORUN_CACHE or the user's cache folder)",
        free_on_resume=True,
    )
    synthetic_domains: int = option(
        2, "number of planted domains, for source=synthetic", at_least=1, limit=94
    )
    synthetic_seed: int = option(0, "seed of the synthetic corpus", at_least=0)

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        if self.val_fraction + self.probe_fraction > 0.8:
            raise UserError(
                f"configuration: data.val_fraction={self.val_fraction} and data.probe_fraction="
                f"{self.probe_fraction} together, expected at most 0.8; lower one of the two"
            )
        if self.source is Source.synthetic and self.max_bytes > LARGEST_SYNTHETIC:
            raise UserError(
                f"configuration: data.max_bytes={self.max_bytes}, expected <= {LARGEST_SYNTHETIC} "
                f"for data=synthetic, which generates that much text; lower it"
            )
        if self.source is Source.text and not self.files:
            raise UserError(
                "configuration: data.files is empty, expected one or more files for data=text; "
                "add data.files=book.txt"
            )
        if self.source is Source.hub and not self.path:
            raise UserError(
                "configuration: data.path is empty, expected a data set of the Hub for data=hub; "
                "add data.path=roneneldan/TinyStories"
            )


@dataclass
class TokenizerConfig:
    """How text becomes tokens."""

    kind: TokenizerKind = option(
        TokenizerKind.byte, "byte: one token per byte; bpe: byte pairs trained on the corpus"
    )
    vocab_size: int = option(
        1024, "vocabulary of the bpe tokenizer (byte always has 256)", at_least=257, at_most=65536
    )

    def __post_init__(self) -> None:
        check_ranges(self, "tokenizer")
