"""Text that is not made of documents, in blocks that are split into train, val and probe."""

from __future__ import annotations

import math

from chronorun.config.data import DataConfig

_LARGEST_BLOCK = 65_536  # bytes
# A small corpus gives val and probe at least this much of each domain (or a seventh of the domain,
# whichever is less): 2 % of a README would be shorter than one context.
_SMALLEST_QUOTA_BYTES = 8192
_LARGEST_SMALL_SHARE = 0.15


def quota_bytes(domain_bytes: int, fraction: float) -> int:
    """Return how much of a domain a split of this fraction should hold."""
    floor = min(_SMALLEST_QUOTA_BYTES, math.ceil(_LARGEST_SMALL_SHARE * domain_bytes))
    return max(floor, math.ceil(fraction * domain_bytes))


def block_bytes(domain_bytes: int, config: DataConfig) -> int:
    """Return the size of a domain's blocks: the smallest split takes about three of them.

    A split takes no block that overshoots its quota by half, so that larger ones would leave it
    empty; smaller ones would break the text more often than need be.
    """
    fraction = min(
        config.val_fraction,
        config.probe_fraction,
        1.0 - config.val_fraction - config.probe_fraction,
    )
    return max(1, min(_LARGEST_BLOCK, quota_bytes(domain_bytes, fraction) // 3))


def streamed_fractions(config: DataConfig) -> tuple[float, float]:
    """Return the shares of val and probe in a streamed corpus, a thousandth at least."""
    return max(0.001, config.val_fraction), max(0.001, config.probe_fraction)


def streamed_block_bytes(least_bytes: int, config: DataConfig) -> int:
    """Return the size of the blocks of a streamed corpus of ``least_bytes`` or more.

    Chance decides where each goes: the smallest split is to get 16 of them, so that it is not left
    without any.
    """
    return max(1, min(_LARGEST_BLOCK, int(min(streamed_fractions(config)) * least_bytes) // 16))


def cut_blocks(text: str, n_bytes: int | None = None) -> list[str]:
    """Cut a text at line ends into blocks of about ``n_bytes`` of UTF-8, none twice as long.

    Without ``n_bytes`` the blocks suit the text as one domain and the default fractions.
    """
    size_of_text = len(text.encode("utf-8", "surrogatepass"))
    if n_bytes is None:
        n_bytes = block_bytes(size_of_text, DataConfig())
    # In characters: a script may take three bytes for each.
    size = max(1, n_bytes * len(text) // max(1, size_of_text))
    blocks, start = [], 0
    while start < len(text):
        stop = text.find("\n", start + size - 1) + 1
        # A text without line ends is cut where the block is full.
        if stop == 0 or stop - start > 2 * size:
            stop = start + size
        if len(text) - stop < size // 2:
            stop = len(text)
        blocks.append(text[start:stop])
        start = stop
    return blocks
