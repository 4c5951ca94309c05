"""Corpora, tokenizers, token cache and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.core.exports import lazy_exports

if TYPE_CHECKING:
    from chronorun.data.batches import domain_batches, fixed_batches, probe_batch, train_batch
    from chronorun.data.bigram import bigram_nats_per_token
    from chronorun.data.corpus import TokenizedCorpus, TokenSplit, load_corpus
    from chronorun.data.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "TokenSplit",
    "TokenizedCorpus",
    "Tokenizer",
    "bigram_nats_per_token",
    "domain_batches",
    "fixed_batches",
    "load_corpus",
    "load_tokenizer",
    "probe_batch",
    "train_batch",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "TokenSplit": "corpus",
        "TokenizedCorpus": "corpus",
        "Tokenizer": "tokenizer",
        "bigram_nats_per_token": "bigram",
        "domain_batches": "batches",
        "fixed_batches": "batches",
        "load_corpus": "corpus",
        "load_tokenizer": "tokenizer",
        "probe_batch": "batches",
        "train_batch": "batches",
    },
)
