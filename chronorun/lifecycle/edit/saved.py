"""Experts outside the model: what one is, as a newborn, an archived one or one to put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chronorun.lifecycle.edit.moments import Moments


@dataclass(frozen=True)
class Plane:
    """Which twin gets a token: the child where ``x . direction > threshold``."""

    direction_D: Tensor
    threshold: Tensor


@dataclass(frozen=True)
class Saved:
    """All that one expert is: its slot of every tensor, and its optimizer moments."""

    values: dict[str, Tensor]
    moments: Moments = field(default_factory=dict)


@dataclass(frozen=True)
class Newborn:
    """An expert to insert; with a plane it starts as the exclusive twin of its parent."""

    expert_id: str
    saved: Saved
    rewarm: bool = False
    plane: Plane | None = None


@dataclass(frozen=True)
class Edit:
    """One change of the tensors of one layer, after the ledger has moved its experts.

    ``before`` names the layer's experts by slot as they were (None: none came or went); those that
    the registry no longer names leave, and new ones are in ``insert``, in the order of their slots.
    ``write`` replaces what experts that stay are, and ``rewarm`` names those of them whose moments
    that left blank. ``redraw_rows`` draws all router rows anew.
    """

    layer_id: int
    before: Sequence[str] | None = None
    insert: Sequence[Newborn] = ()
    write: Mapping[str, Saved] = field(default_factory=dict)
    rewarm: Sequence[str] = ()
    redraw_rows: torch.Generator | None = None


def flatten_saved(saved: Saved) -> dict[str, Tensor]:
    """Return an expert as tensors by name: ``values|name`` and ``moments|name|entry``."""
    flat = {f"values|{name}": value for name, value in saved.values.items()}
    for name, entries in saved.moments.items():
        flat |= {f"moments|{name}|{entry}": value for entry, value in entries.items()}
    return flat


def nest_saved(flat: Mapping[str, Tensor]) -> Saved:
    """Rebuild an expert from ``flatten_saved``."""
    saved = Saved({}, {})
    for key, value in flat.items():
        kind, _, name = key.partition("|")
        if kind == "values":
            saved.values[name] = value
        elif kind == "moments":
            name, _, entry = name.partition("|")
            saved.moments.setdefault(name, {})[entry] = value
    return saved
