"""Basins: which tokens an expert gets, one entry per evaluation in a rolling window."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chronorun.core.state import from_plain, to_plain

Dist = NDArray[np.float64]
CO_ACTIVATIONS_KEPT = 16


@dataclass(frozen=True, eq=False)
class BasinEntry:
    """One expert at one evaluation.

    ``share`` of the layer's assignments; ``entropy_contribution`` -share ln share in nats;
    ``token_type_dist`` and ``position_dist`` sum to 1 each, or to 0 for an expert without tokens;
    ``co_activation`` maps another expert to P(also selected | this one selected), the largest 16;
    ``weight_norm`` is the L2 norm, ``weight_delta`` the L2 distance to the last evaluation.
    """

    step: int
    checkpoint: int
    share: float
    entropy_contribution: float
    token_type_dist: Dist
    position_dist: Dist
    co_activation: dict[str, float]
    weight_norm: float
    weight_delta: float


class BasinHistory:
    """The newest ``window_size`` entries of one expert, oldest first."""

    def __init__(self, window_size: int, entries: Iterable[BasinEntry] = ()) -> None:
        self.entries: deque[BasinEntry] = deque(entries, maxlen=window_size)

    @property
    def window_size(self) -> int:
        """Entries kept at most."""
        assert self.entries.maxlen is not None
        return self.entries.maxlen

    @property
    def latest(self) -> BasinEntry | None:
        """The newest entry."""
        return self.entries[-1] if self.entries else None

    @property
    def latest_used(self) -> BasinEntry | None:
        """The newest entry in which the expert had tokens."""
        return next((entry for entry in reversed(self.entries) if entry.share > 0.0), None)

    def append(self, entry: BasinEntry) -> None:
        """Add an entry; the oldest one beyond the window goes."""
        self.entries.append(entry)

    def merged_with(self, other: BasinHistory) -> BasinHistory:
        """Return the history of this expert after it absorbed another one."""
        mine = {entry.checkpoint: entry for entry in self.entries}
        theirs = {entry.checkpoint: entry for entry in other.entries}
        entries = [
            merge_entries(mine[c], theirs[c])
            if c in mine and c in theirs
            else mine.get(c) or theirs[c]
            for c in sorted(mine.keys() | theirs.keys())
        ]
        return BasinHistory(self.window_size, entries)

    def thin_out(self) -> None:
        """Drop what is not needed of an expert that left: all histograms but the newest used.

        Shares and weight figures stay: they are compared with new ones when it comes back.
        """
        known, none = self.latest_used, dict[str, float]()
        for place, entry in enumerate(self.entries):
            types, positions = entry.token_type_dist, entry.position_dist
            # A copy: the histograms of an evaluation are rows of one array of its whole layer.
            self.entries[place] = replace(
                entry,
                token_type_dist=types.copy() if entry is known else _nothing(len(types)),
                position_dist=positions.copy() if entry is known else _nothing(len(positions)),
                co_activation=entry.co_activation if entry is known else none,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return plain JSON data; it reads back exactly."""
        entries = [_shortened(entry) for entry in self.entries]
        return to_plain({"window_size": self.window_size, "entries": entries})

    @classmethod
    def from_state_dict(cls, plain: Mapping[str, Any]) -> BasinHistory:
        """Rebuild a history from ``state_dict``."""
        saved = from_plain(_SavedHistory, plain)
        entries = (e if isinstance(e, BasinEntry) else _lengthened(e) for e in saved.entries)
        return cls(saved.window_size, entries)


_Short = tuple[int, int, float, float, float, float, int, int]
"""An entry without histograms, of which there may be thousands: its numbers, how many bins each."""


@dataclass(frozen=True)
class _SavedHistory:
    window_size: int
    entries: list[BasinEntry | _Short]


def _shortened(e: BasinEntry) -> BasinEntry | _Short:
    types, positions = e.token_type_dist, e.position_dist
    if types.any() or positions.any() or e.co_activation:
        return e
    figures = (e.step, e.checkpoint, e.share, e.entropy_contribution, e.weight_norm, e.weight_delta)
    return (*figures, len(types), len(positions))


def _lengthened(saved: _Short) -> BasinEntry:
    step, checkpoint, share, entropy, norm, delta, types, positions = saved
    nothing = _nothing(types), _nothing(positions)
    return BasinEntry(step, checkpoint, share, entropy, *nothing, {}, norm, delta)


def merge_entries(survivor: BasinEntry, absorbed: BasinEntry) -> BasinEntry:
    """Combine two experts' entries of one evaluation.

    Shares add; distributions and co-activation are weighted by them; weight figures stay the
    survivor's. A distribution that is not known any more (all 0) has no weight.
    """
    share = survivor.share + absorbed.share
    a = survivor.share / share if share > 0.0 else 0.5
    ids = {**survivor.co_activation, **absorbed.co_activation}
    together = {
        i: a * survivor.co_activation.get(i, 0.0) + (1.0 - a) * absorbed.co_activation.get(i, 0.0)
        for i in ids
    }
    return replace(
        survivor,
        share=share,
        entropy_contribution=entropy_term(share),
        token_type_dist=_mixture(a, survivor.token_type_dist, absorbed.token_type_dist),
        position_dist=_mixture(a, survivor.position_dist, absorbed.position_dist),
        co_activation=together,
    )


def _mixture(a: float, first: Dist, second: Dist) -> Dist:
    if not (first.any() and second.any()):
        return first if first.any() else second
    return a * first + (1.0 - a) * second


def entropy_term(share: float) -> float:
    """Return -share ln share in nats; 0 at share 0."""
    return -share * math.log(share) if share > 0.0 else 0.0


def basin_entries(
    step: int,
    checkpoint: int,
    expert_ids: Sequence[str],
    token_types: NDArray[np.int64],
    positions: NDArray[np.int64],
    co_selection: NDArray[np.int64],
    weight_norms: Sequence[float],
    weight_deltas: Sequence[float],
) -> list[BasinEntry]:
    """Make the entries of one layer's E live experts, in slot order.

    ``token_types`` [E, buckets] and ``positions`` [E, 16] count assignments; ``co_selection``
    [E, E] counts tokens sent to both, its diagonal is each expert's own count.
    """
    own = np.diag(co_selection).astype(np.float64)
    together = _co_activations(expert_ids, co_selection)
    total = own.sum()
    shares = (own / total if total else own).tolist()
    types, places = _normalised(token_types), _normalised(positions)
    return [
        BasinEntry(
            step=step,
            checkpoint=checkpoint,
            share=shares[e],
            entropy_contribution=entropy_term(shares[e]),
            token_type_dist=types[e],
            position_dist=places[e],
            co_activation=together[e],
            weight_norm=float(weight_norms[e]),
            weight_delta=float(weight_deltas[e]),
        )
        for e in range(len(expert_ids))
    ]


def _co_activations(ids: Sequence[str], co_selection: NDArray[np.int64]) -> list[dict[str, float]]:
    """Return P(also selected | this one selected) of each expert, the largest 16 of others."""
    others = co_selection.copy()
    np.fill_diagonal(others, 0)
    rows, columns = np.nonzero(_largest_of_rows(others) & (others > 0))
    counts, names = others[rows, columns].tolist(), [ids[i] for i in columns.tolist()]
    ends = np.searchsorted(rows, np.arange(len(ids) + 1)).tolist()
    return [
        {name: n / own for name, n in zip(names[start:end], counts[start:end], strict=True)}
        if own
        else {}
        for own, start, end in zip(np.diag(co_selection).tolist(), ends[:-1], ends[1:], strict=True)
    ]


def _largest_of_rows(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the ``CO_ACTIVATIONS_KEPT`` largest of each row, the first among equals."""
    k = CO_ACTIVATIONS_KEPT
    if counts.shape[1] <= k:
        return np.ones(counts.shape, dtype=bool)
    least = np.partition(counts, -k, axis=1)[:, -k, None]
    above, equal = counts > least, counts == least
    left = k - above.sum(axis=1, keepdims=True)
    return np.asarray(above | (equal & (equal.cumsum(axis=1) <= left)))


def _normalised(counts: NDArray[np.int64]) -> Dist:
    totals = counts.sum(axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(totals, 1), dtype=np.float64)


def basin_records(
    layer_id: int, expert_ids: Sequence[str], entries: Sequence[BasinEntry]
) -> list[dict[str, Any]]:
    """Return a layer's lines of ``basins.jsonl``; histograms are rounded to six decimals there."""
    types = _rounded(np.stack([entry.token_type_dist for entry in entries]))
    places = _rounded(np.stack([entry.position_dist for entry in entries]))
    return [
        {
            "step": entry.step,
            "checkpoint": entry.checkpoint,
            "layer_id": layer_id,
            "expert_id": expert_id,
            **vars(entry),
            "token_type_dist": types[i],
            "position_dist": places[i],
        }
        for i, (expert_id, entry) in enumerate(zip(expert_ids, entries, strict=True))
    ]


def _rounded(dists: Dist) -> list[list[float]]:
    """Return ``round(x, 6) if x else 0`` of each element, bit for bit, but faster."""
    used = dists != 0.0
    values = dists[used]
    scaled = values * 1e6
    whole = np.rint(scaled)
    rounded = (whole / 1e6).astype(object)
    # The product is off by 1e-10 at most: next to a half, only the exact rounding will do.
    for i in np.flatnonzero(np.abs(scaled - whole) > 0.5 - 1e-6).tolist():
        rounded[i] = round(float(values[i]), 6)
    filled = np.zeros(dists.shape, dtype=object)
    filled[used] = rounded
    plain: list[list[float]] = filled.tolist()
    return plain


@cache
def _nothing(bins: int) -> Dist:
    """Return the distribution of an expert without tokens, one array for all of them."""
    dist = np.zeros(bins)
    dist.flags.writeable = False
    return dist
