"""Documents: named pieces of text of one domain, capped to a size and split without overlap."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from chronorun.config.data import DataConfig
from chronorun.data.blocks import block_bytes, cut_blocks, quota_bytes, streamed_fractions

SPLITS = ("train", "val", "probe")


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


def domain_sizes(documents: Sequence[Document]) -> dict[str, int]:
    """Return the bytes of each domain, in the order in which the domains begin."""
    sizes: dict[str, int] = defaultdict(int)
    for document in documents:
        sizes[document.domain] += document.n_bytes
    return dict(sizes)


def cap_documents(documents: Sequence[Document], config: DataConfig) -> list[Document]:
    """Keep at most ``max_bytes`` of text, evenly over the domains.

    Documents are chosen by the hash of their name, so that a capped corpus is a sample and not
    its beginning; they keep their order. The one that does not fit is cut at a line end.
    """
    sizes = domain_sizes(documents)
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


def cut_long(documents: Sequence[Document], config: DataConfig) -> list[Document]:
    """Cut what is too long for the smallest split into blocks, named ``document#block``.

    The splits are those of what ``cap_documents`` will keep.
    """
    sizes = domain_sizes(documents)
    kept = share_evenly(list(sizes.values()), config.max_bytes)
    largest = {name: block_bytes(n, config) for name, n in zip(sizes, kept, strict=True)}
    return [part for d in documents for part in blocks_of(d, largest[d.domain])]


def blocks_of(document: Document, n_bytes: int) -> Iterator[Document]:
    """Yield the document, or its blocks where it is longer than two of them."""
    if document.n_bytes <= 2 * n_bytes:
        yield document
        return
    for number, block in enumerate(cut_blocks(document.text, n_bytes)):
        yield Document(f"{document.name}#{number}", document.domain, block)


def split_documents(
    documents: Sequence[Document], config: DataConfig
) -> tuple[list[Document], dict[str, str]]:
    """Return the documents and the split of every name; each domain has a part in every split.

    Where whole documents leave a domain without a part (there are too few, or they are too long),
    that domain is cut into blocks, and its documents then lie in more than one split.
    """
    splits = assign_splits(documents, config)
    parts: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        parts[document.domain].add(splits[document.name])
    lacking = {domain for domain, found in parts.items() if len(found) < len(SPLITS)}
    if not lacking:
        return list(documents), splits
    size = {name: block_bytes(n, config) for name, n in domain_sizes(documents).items()}
    cut: list[Document] = []
    for index, document in enumerate(documents):
        if document.domain not in lacking:
            cut.append(document)
            continue
        for number, block in enumerate(cut_blocks(document.text, size[document.domain])):
            # The place distinguishes repeated documents: they may be all that there is.
            name = f"{document.name}#{index}.{number}"
            cut.append(Document(name, document.domain, block))
    return cut, assign_splits(cut, config)


def assign_splits(documents: Sequence[Document], config: DataConfig) -> dict[str, str]:
    """Return the split of every document name.

    Names are walked in the order of their hash; val and probe take names until each domain has
    its share of the bytes, the rest is train. Depends on names and sizes only, not on the order.
    """
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for document in documents:
        sizes[document.name][document.domain] += document.n_bytes
    totals = domain_sizes(documents)
    quotas = {
        "val": {domain: quota_bytes(n, config.val_fraction) for domain, n in totals.items()},
        "probe": {domain: quota_bytes(n, config.probe_fraction) for domain, n in totals.items()},
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


def split_by_hash(name: str, config: DataConfig) -> str:
    """Return the split of a document of a corpus too large to be walked in order.

    The hash of the name is a uniform number; val and probe are its lowest parts. Of many documents
    the shares come out as asked for, and nothing needs to be remembered of the others.
    """
    uniform = int.from_bytes(_rank(name, config)[:8], "big") / 2**64
    val, probe = streamed_fractions(config)
    if uniform < val:
        return "val"
    return "probe" if uniform < val + probe else "train"


def hash_documents(documents: Sequence[Document], splits: dict[str, str]) -> str:
    """Return the sha256 that identifies a split corpus: names, domains, splits and texts."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document_record(document, splits[document.name]))
    return digest.hexdigest()


def document_record(document: Document, split: str) -> bytes:
    """Return what identifies a document and its split, each part behind its length."""
    parts = (document.name, document.domain, split, document.text)
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def _rank(name: str, config: DataConfig) -> bytes:
    return hashlib.sha256(f"{config.split_seed}:{name}".encode()).digest()


def _fits(sizes: dict[str, int], taken: dict[str, int], quota: dict[str, int]) -> bool:
    """Return whether a document fills a gap without overshooting any of its domains by half."""
    wanted = any(taken[domain] < quota[domain] for domain in sizes)
    return wanted and all(
        taken[domain] + size <= 1.5 * quota[domain] for domain, size in sizes.items()
    )


def _cut(document: Document, n_bytes: int) -> Document:
    head = document.text.encode()[:n_bytes].decode(errors="ignore")
    return Document(document.name, document.domain, head[: head.rfind("\n") + 1] or head)
