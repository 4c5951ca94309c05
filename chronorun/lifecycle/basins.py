"""What tokens an expert gets: one entry per checkpoint, a rolling window of them per expert."""

from __future__ import annotations

import base64
import math
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Dist = NDArray[np.float64]
CO_ACTIVATIONS_KEPT = 16


@dataclass(frozen=True, eq=False)
class BasinEntry:
    """One expert at one checkpoint.

    ``share`` of the layer's assignments; ``entropy_contribution`` -share ln share in nats;
    ``token_type_dist`` and ``position_dist`` sum to 1 each, or to 0 for an expert without tokens;
    ``co_activation`` maps another expert to P(also selected | this one selected), the largest 16;
    ``weight_norm`` is the L2 norm, ``weight_delta`` the L2 distance to the last checkpoint.
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

    def to_record(self, layer_id: int, expert_id: str) -> dict[str, Any]:
        """Return a line of ``basins.jsonl``; histograms are rounded to six decimals there."""
        return {
            "step": self.step,
            "checkpoint": self.checkpoint,
            "layer_id": layer_id,
            "expert_id": expert_id,
            "share": self.share,
            "entropy_contribution": self.entropy_contribution,
            "token_type_dist": _rounded(self.token_type_dist),
            "position_dist": _rounded(self.position_dist),
            "co_activation": dict(self.co_activation),
            "weight_norm": self.weight_norm,
            "weight_delta": self.weight_delta,
        }


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

    def state_dict(self) -> dict[str, Any]:
        """Return plain JSON data; arrays are packed, and read back exactly."""
        plain = [
            vars(e)
            | {
                "token_type_dist": _pack(e.token_type_dist),
                "position_dist": _pack(e.position_dist),
                "co_activation": dict(e.co_activation),
            }
            for e in self.entries
        ]
        return {"window_size": self.window_size, "entries": plain}

    @classmethod
    def from_state_dict(cls, plain: Mapping[str, Any]) -> BasinHistory:
        """Rebuild a history from ``state_dict``."""
        entries = [
            BasinEntry(
                **dict(saved)
                | {
                    "token_type_dist": _unpack(saved["token_type_dist"]),
                    "position_dist": _unpack(saved["position_dist"]),
                    "co_activation": dict(saved["co_activation"]),
                }
            )
            for saved in plain["entries"]
        ]
        return cls(plain["window_size"], entries)


def merge_entries(survivor: BasinEntry, absorbed: BasinEntry) -> BasinEntry:
    """Combine two experts' entries of one checkpoint.

    Shares add; distributions and co-activation are weighted by them; weight figures stay the
    survivor's.
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
        token_type_dist=a * survivor.token_type_dist + (1.0 - a) * absorbed.token_type_dist,
        position_dist=a * survivor.position_dist + (1.0 - a) * absorbed.position_dist,
        co_activation=together,
    )


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
    total = own.sum()
    shares = own / total if total else own
    types, places = _normalised(token_types), _normalised(positions)
    return [
        BasinEntry(
            step=step,
            checkpoint=checkpoint,
            share=float(shares[e]),
            entropy_contribution=entropy_term(float(shares[e])),
            token_type_dist=types[e],
            position_dist=places[e],
            co_activation=_co_activation(expert_ids, co_selection[e], e),
            weight_norm=float(weight_norms[e]),
            weight_delta=float(weight_deltas[e]),
        )
        for e in range(len(expert_ids))
    ]


def _co_activation(ids: Sequence[str], row: NDArray[np.int64], e: int) -> dict[str, float]:
    count = int(row[e])
    others = np.flatnonzero(row)
    others = others[others != e]
    if not count or not len(others):
        return {}
    if len(others) > CO_ACTIVATIONS_KEPT:
        order = np.argsort(-row[others], kind="stable")[:CO_ACTIVATIONS_KEPT]
        others = np.sort(others[order])
    return {ids[i]: int(row[i]) / count for i in others.tolist()}


def _normalised(counts: NDArray[np.int64]) -> Dist:
    totals = counts.sum(axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(totals, 1), dtype=np.float64)


def _rounded(dist: Dist) -> list[float]:
    return [round(value, 6) if value else 0 for value in dist.tolist()]


def _pack(array: Dist) -> str:
    return base64.b64encode(zlib.compress(array.astype("<f8").tobytes(), 1)).decode()


def _unpack(text: str) -> Dist:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f8")
