"""A corpus with planted domains: each has its own alphabet and second-order Markov chain.

For tests and quick looks: it is written in a moment, a single byte distinguishes domains,
and the next byte depends on two, so that a model can beat a bigram.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chronorun.config.data import DataConfig
from chronorun.data.documents import Document
from chronorun.data.source import Reading

_DOCUMENT_BYTES = 1024
_LETTERS = bytes(range(33, 127))  # printable ASCII without the space


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Return the parameters: they are all there is to know."""
    return {"domains": config.synthetic_domains, "seed": config.synthetic_seed, "version": 1}


def read(config: DataConfig) -> Reading:
    """Write ``max_bytes`` of text, the same amount in every domain."""
    n_domains = config.synthetic_domains
    n_documents = config.max_bytes // n_domains // _DOCUMENT_BYTES
    documents: list[Document] = []
    for index in range(n_domains):
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([config.synthetic_seed, index]))
        )
        letters = np.frombuffer(_LETTERS, dtype=np.uint8)[index::n_domains][:12]
        for number, row in enumerate(letters[_walk(rng, len(letters), n_documents)]):
            text = row.tobytes().decode("ascii")
            documents.append(Document(f"synthetic/{index}/{number}", f"domain{index}", text))
    return Reading(documents)


def _walk(rng: np.random.Generator, n_states: int, n_rows: int) -> Any:
    """Return state indices [n_rows, document bytes] of one chain; all rows advance together."""
    cumulative = rng.dirichlet(np.full(n_states, 0.3), size=(n_states, n_states)).cumsum(axis=-1)
    cumulative[..., -1] = 1.0  # rounding must not leave a gap at the top
    states = np.empty((_DOCUMENT_BYTES, n_rows), dtype=np.int64)
    states[:2] = rng.integers(n_states, size=(2, n_rows))
    for position in range(2, _DOCUMENT_BYTES):
        rows = cumulative[states[position - 2], states[position - 1]]
        states[position] = (rng.random(n_rows)[:, None] >= rows).sum(axis=1)
    return states.T
