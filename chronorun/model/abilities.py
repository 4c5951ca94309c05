"""What a layer may offer beyond ``PopulationLayer``: asked here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from chronorun.model.shapes import Spy
from chronorun.model.twins import Twin


@runtime_checkable
class Twinned(Protocol):
    """A layer in which two experts can share one logit until they are released."""

    def set_twins(self, pairs: Sequence[Twin]) -> None:
        """Make these pairs exclusive, and no others."""


@runtime_checkable
class Alignable(Protocol):
    """A layer whose experts' hidden units can be permuted before two of them are averaged."""

    def hidden_axes(self) -> Mapping[str, int]:
        """Return the axis of the hidden units of each expert tensor, without the slot axis."""


@runtime_checkable
class Spied(Protocol):
    """A layer that shows its routing and output to a spy in every forward."""

    spy: Spy | None


def can_pair(layer: Any) -> bool:
    """Return whether two experts of a layer can be exclusive twins."""
    return isinstance(layer, Twinned)


def set_twins(layer: Any, pairs: Sequence[Twin]) -> None:
    """Make these pairs exclusive where the layer knows twins."""
    if isinstance(layer, Twinned):
        layer.set_twins(pairs)


def hidden_axes(layer: Any) -> Mapping[str, int]:
    """Return the axes of the hidden units; empty for a layer that does not say them."""
    return layer.hidden_axes() if isinstance(layer, Alignable) else {}


@contextmanager
def spied(layer: Any, spy: Spy) -> Iterator[None]:
    """Show a layer's forwards to ``spy`` for a while, where the layer can."""
    if not isinstance(layer, Spied):
        yield
        return
    layer.spy = spy
    try:
        yield
    finally:
        layer.spy = None
