"""Documents: named pieces of text of one domain, capped to a size and split without overlap."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from chronorun.config.data import DataConfig

SPLITS = ("train", "val", "probe")

# A small corpus gives val and probe at least this much of each domain (or a seventh of the domain,
# whichever is less): 2 % of a README would be shorter than one context.
_SMALLEST_QUOTA_BYTES = 8192
_LARGEST_SMALL_SHARE = 0.15


@dataclass(frozen=True)
class Document:
    """Text of one domain. Documents that share a name always land in the same split."""

    name: str
    domain: str
    text: str

    @cached_property
    def n_bytes(self) -> int:
        """Size in UTF-8."""
        return len(self.text.encode())


def share_evenly(sizes: Sequence[int], total: int) -> list[int]:
    """Return how much each may take of ``total``: the same cap for all, which small ones leave."""
    shares = [0] * len(sizes)
    left = total
    by_size = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    for position, index in enumerate(by_size):
        shares[index] = min(sizes[index], left // (len(sizes) - position))
        left -= shares[index]
    return shares


def cap_documents(documents: Sequence[Document], config: DataConfig) -> list[Document]:
    """Keep at most ``max_bytes`` of text, evenly over the domains.

    Documents are chosen by the hash of their name, so that a capped corpus is a sample and not
    its beginning; they keep their order. The one that does not fit is cut at a line end.
    """
    sizes: dict[str, int] = defaultdict(int)
    for document in documents:
        sizes[document.domain] += document.n_bytes
    if sum(sizes.values()) <= config.max_bytes:
        return list(documents)
    left = dict(
        zip(sizes, share_evenly(list(sizes.values()), config.max_bytes), strict=True),
    )
    kept: dict[int, Document] = {}
    order = sorted(range(len(documents)), key=lambda i: _rank(documents[i].name, config))
    for index in order:
        document = documents[index]
        if document.n_bytes > left[document.domain]:
            document = _cut(document, left[document.domain])
            left[document.domain] = 0
        else:
            left[document.domain] -= document.n_bytes
        if document.text:
            kept[index] = document
    return [kept[index] for index in sorted(kept)]


def assign_splits(documents: Sequence[Document], config: DataConfig) -> dict[str, str]:
    """Return the split of every document name.

    Names are walked in the order of their hash; val and probe take names until each domain has
    its share of the bytes, the rest is train. Depends on names and sizes only, not on the order.
    """
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    totals: dict[str, int] = defaultdict(int)
    for document in documents:
        sizes[document.name][document.domain] += document.n_bytes
        totals[document.domain] += document.n_bytes
    quotas = {
        "val": {domain: _quota(n, config.val_fraction) for domain, n in totals.items()},
        "probe": {domain: _quota(n, config.probe_fraction) for domain, n in totals.items()},
    }
    taken: dict[str, dict[str, int]] = {split: defaultdict(int) for split in quotas}
    result: dict[str, str] = {}
    for name in sorted(sizes, key=lambda name: _rank(name, config)):
        result[name] = "train"
        for split, quota in quotas.items():
            if _fits(sizes[name], taken[split], quota):
                result[name] = split
                for domain, size in sizes[name].items():
                    taken[split][domain] += size
                break
    return result


def hash_documents(documents: Sequence[Document], splits: dict[str, str]) -> str:
    """Return the sha256 that identifies a split corpus: names, domains, splits and texts."""
    digest = hashlib.sha256()
    for document in documents:
        for part in (document.name, document.domain, splits[document.name], document.text):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8, "big"))
            digest.update(encoded)
    return digest.hexdigest()


def _rank(name: str, config: DataConfig) -> bytes:
    return hashlib.sha256(f"{config.split_seed}:{name}".encode()).digest()


def _quota(domain_bytes: int, fraction: float) -> int:
    floor = min(_SMALLEST_QUOTA_BYTES, math.ceil(_LARGEST_SMALL_SHARE * domain_bytes))
    return max(floor, math.ceil(fraction * domain_bytes))


def _fits(sizes: dict[str, int], taken: dict[str, int], quota: dict[str, int]) -> bool:
    """Tell whether a document fills a gap without overshooting any of its domains by half."""
    wanted = any(taken[domain] < quota[domain] for domain in sizes)
    return wanted and all(
        taken[domain] + size <= 1.5 * quota[domain] for domain, size in sizes.items()
    )


def _cut(document: Document, n_bytes: int) -> Document:
    head = document.text.encode()[:n_bytes].decode(errors="ignore")
    return Document(document.name, document.domain, head[: head.rfind("\n") + 1])
