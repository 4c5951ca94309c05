"""Norms, changes and cosines of a layer's expert weights: one pass, one copy to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chronorun.core.state import from_plain
from chronorun.model.population import PopulationLayer, is_router

ALL_EXACT_UP_TO = 64
"""Experts up to which the whole Gram matrix is computed."""
_SAMPLED = 4096
_CANDIDATES = 128


@dataclass(frozen=True)
class WeightFigures:
    """Of E experts: L2 norms, L2 distances to the last look, cosines [E, E] (NaN: ruled out)."""

    norms: list[float]
    deltas: list[float]
    cosines: NDArray[np.float64]


class WeightWatch:
    """Looks at one layer's weights at each evaluation, and remembers them until the next."""

    def __init__(self, layer: PopulationLayer) -> None:
        self.layer = layer
        self._ids: list[str] = []
        self._last_EP: Tensor | None = None

    @torch.no_grad()
    def look(self, expert_ids: Sequence[str]) -> WeightFigures:
        """Return the figures of the experts in slot order; an expert not seen before changed 0."""
        weights_EP = flat_weights(self.layer)
        scratch_EP = self._rows(expert_ids, weights_EP)
        norms_E = weights_EP.norm(dim=1)
        # Fresh memory costs as much as the arithmetic: what was the last look holds the changes,
        # then the unit vectors.
        torch.sub(weights_EP, scratch_EP, out=scratch_EP)
        deltas_E = scratch_EP.norm(dim=1)
        torch.div(weights_EP, norms_E.clamp(min=1e-30)[:, None], out=scratch_EP)
        cosines = _cosines(scratch_EP)
        # A copy of our own: the parameters themselves change in place.
        self._ids, self._last_EP = list(expert_ids), weights_EP
        host = torch.stack([norms_E, deltas_E]).double().cpu().tolist()
        return WeightFigures(host[0], host[1], cosines)

    def _rows(self, expert_ids: Sequence[str], weights_EP: Tensor) -> Tensor:
        """Return the weights [E, P] at the last look, in memory that is free to be used."""
        if self._last_EP is not None and self._ids == list(expert_ids):
            return self._last_EP
        known = self._by_id()
        return torch.stack([known.get(name, weights_EP[e]) for e, name in enumerate(expert_ids)])

    def _by_id(self) -> dict[str, Tensor]:
        rows = () if self._last_EP is None else self._last_EP.unbind(0)
        return dict(zip(self._ids, rows, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the weights were at the last look."""
        return {name: row.clone() for name, row in self._by_id().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it."""
        device = next(iter(self.layer.slot_tensors().values())).device
        rows = from_plain(dict[str, Tensor], state)
        expected = flat_weights(self.layer).shape[1:]
        if any(row.shape != expected for row in rows.values()):
            raise ValueError(f"weights at the last look: expected shape {list(expected)} of each")
        self._ids = list(rows)
        self._last_EP = torch.stack(list(rows.values())).to(device).float() if rows else None


def flat_weights(layer: PopulationLayer) -> Tensor:
    """Return a copy of all expert weights as float32 [E, P]; router rows are left out."""
    parts = [
        tensor.detach().flatten(1).float()
        for name, tensor in layer.slot_tensors().items()
        if not is_router(name) and tensor.is_floating_point() and tensor.ndim > 1
    ]
    return torch.cat(parts, dim=1)


def _cosines(unit_EP: Tensor) -> NDArray[np.float64]:
    E, P = unit_EP.shape
    if E <= ALL_EXACT_UP_TO:
        return np.asarray((unit_EP @ unit_EP.t()).double().cpu().numpy())
    # E^2 products of P numbers each are too many: a fixed sample of the coordinates rules out.
    generator = torch.Generator().manual_seed(P)
    index = torch.randperm(P, generator=generator)[:_SAMPLED].to(unit_EP.device)
    part_ES = unit_EP[:, index]
    part_ES = part_ES / part_ES.norm(dim=1).clamp(min=1e-30)[:, None]
    rough = (part_ES @ part_ES.t()).cpu().numpy()
    upper = np.triu(np.ones((E, E), dtype=bool), k=1)
    best = np.flatnonzero(upper)[_largest(rough[upper], _CANDIDATES)]
    rows, columns = best // E, best % E
    i, j = torch.tensor(rows), torch.tensor(columns)
    exact = (unit_EP[i] * unit_EP[j]).sum(dim=1).double().cpu().numpy()
    cosines = np.full((E, E), np.nan)
    np.fill_diagonal(cosines, 1.0)
    cosines[rows, columns] = cosines[columns, rows] = exact
    return cosines


def _largest(values_N: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return where the ``count`` largest values are, the first among equals, in index order."""
    values_N = np.where(np.isnan(values_N), -np.inf, values_N)
    if len(values_N) <= count:
        return np.arange(len(values_N))
    least = np.partition(values_N, -count)[-count]
    above, equal = np.flatnonzero(values_N > least), np.flatnonzero(values_N == least)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))
