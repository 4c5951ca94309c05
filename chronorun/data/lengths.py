"""Checks that each split is long enough to draw a window from, with advice where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping

from chronorun.config.data import DataConfig, Source, TokenizerConfig, TokenizerKind
from chronorun.errors import UserError

Spans = Mapping[str, tuple[int, int]]

# A seventh of a small text goes to validation, and as much to the probe.
_SMALLEST_SHARE = 0.15
# More than this for one split would leave too little to train on.
_LARGEST_FRACTION = 0.3
# What a token of a trained tokenizer holds, roughly, before there is one.
_BPE_BYTES = 4
_SHORTEST_CONTEXT = 8


def check_bytes(
    split_bytes: Mapping[str, Mapping[str, int]],
    config: DataConfig,
    tokenizer: TokenizerConfig,
    min_tokens: int,
) -> None:
    """Refuse splits that no tokenizer makes long enough: a token is at least one byte.

    Takes the bytes of each split and domain. Raises UserError.
    """
    is_byte = tokenizer.kind is TokenizerKind.byte
    unit = "bytes" if is_byte else "bytes, which are fewer tokens,"
    for split in split_bytes:
        if max(split_bytes[split].values(), default=0) < min_tokens:
            per_token = 1 if is_byte else _BPE_BYTES
            advice = _advice(split, split_bytes, config, min_tokens * per_token, 1.0, per_token)
            raise _too_short(split, split_bytes, config, min_tokens, unit, advice)


def check_tokens(
    spans: Mapping[str, Spans], config: DataConfig, min_tokens: int, bytes_per_token: float
) -> None:
    """Refuse splits without a window of ``min_tokens`` in any domain. Raises UserError."""
    n_tokens = {
        split: {domain: stop - start for domain, (start, stop) in found.items()}
        for split, found in spans.items()
    }
    for split, sizes in n_tokens.items():
        if max(sizes.values(), default=0) < min_tokens:
            advice = _advice(split, n_tokens, config, min_tokens, max(1.0, bytes_per_token), 1)
            raise _too_short(split, n_tokens, config, min_tokens, "tokens", advice)


def short_domains(spans: Spans, min_tokens: int) -> list[str]:
    """Return the domains of a split that hold no window of ``min_tokens``."""
    return [domain for domain, (start, stop) in spans.items() if stop - start < min_tokens]


def _too_short(
    split: str,
    sizes: Mapping[str, Mapping[str, int]],
    config: DataConfig,
    min_tokens: int,
    unit: str,
    advice: str,
) -> UserError:
    longest = max(sizes[split].values(), default=0)
    return UserError(
        f"data: the {split} split of source={config.source.value} has {longest:,} {unit} in a row, "
        f"expected at least {min_tokens} (one context and the next token); {advice}"
    )


def _advice(
    split: str,
    sizes: Mapping[str, Mapping[str, int]],
    config: DataConfig,
    needed: int,
    bytes_per_unit: float,
    units_per_token: int,
) -> str:
    """Return what would help, with figures; ``sizes`` and ``needed`` are in the same unit."""
    totals: dict[str, int] = {}
    for found in sizes.values():
        for domain, size in found.items():
            totals[domain] = totals.get(domain, 0) + size
    largest, pooled = max(totals.values(), default=0), sum(totals.values())
    # A half more than needed: blocks do not come out even.
    fraction = math.ceil(150 * needed / max(1, largest)) / 100
    ways = []
    if config.source is Source.text and len(totals) > 1 and _SMALLEST_SHARE * pooled > 1.5 * needed:
        ways.append("add data.domain_by=none")
    elif split == "train" and config.val_fraction + config.probe_fraction > 0.5:
        ways.append("lower data.val_fraction and data.probe_fraction")
    elif split != "train" and fraction <= _LARGEST_FRACTION:
        ways.append(f"add data.{split}_fraction={fraction}")
    else:
        n_bytes = math.ceil(1.5 * needed * bytes_per_unit / _SMALLEST_SHARE)
        capped = config.max_bytes < n_bytes
        ways.append(
            f"raise data.max_bytes to {n_bytes}" if capped else f"add text, to {n_bytes:,} bytes"
        )
    shortest = min(max(found.values(), default=0) for found in sizes.values())
    context = shortest // units_per_token - 1
    if context >= _SHORTEST_CONTEXT:
        ways.append(f"lower model.context_length to {context}")
    return " or ".join(ways)
