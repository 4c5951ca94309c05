"""Norms, changes and cosines of a layer's expert weights: one pass, one copy to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chronorun.lifecycle.births import is_router
from chronorun.model.population import PopulationLayer

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
    """Looks at one layer's weights at each checkpoint, and remembers them until the next."""

    def __init__(self, layer: PopulationLayer) -> None:
        self.layer = layer
        self._last: dict[str, Tensor] = {}

    @torch.no_grad()
    def look(self, expert_ids: Sequence[str]) -> WeightFigures:
        """Return the figures of the experts in slot order; an expert not seen before changed 0."""
        weights_EP = flat_weights(self.layer)
        last = [self._last.get(name, weights_EP[e]) for e, name in enumerate(expert_ids)]
        norms_E = weights_EP.norm(dim=1)
        deltas_E = torch.stack(
            [(new - old).norm() for new, old in zip(weights_EP.unbind(0), last, strict=True)]
        )
        cosines = _cosines(weights_EP, norms_E)
        # Rows of a copy of our own: the parameters themselves change in place.
        self._last = dict(zip(expert_ids, weights_EP.unbind(0), strict=True))
        host = torch.stack([norms_E, deltas_E]).double().cpu().tolist()
        return WeightFigures(host[0], host[1], cosines)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the weights were at the last look."""
        return {name: row.clone() for name, row in self._last.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it."""
        device = next(iter(self.layer.slot_tensors().values())).device
        self._last = {name: row.to(device) for name, row in state.items()}


def flat_weights(layer: PopulationLayer) -> Tensor:
    """Return a copy of all expert weights as float32 [E, P]; router rows are left out."""
    parts = [
        tensor.detach().flatten(1).float()
        for name, tensor in layer.slot_tensors().items()
        if not is_router(name) and tensor.is_floating_point() and tensor.ndim > 1
    ]
    return torch.cat(parts, dim=1)


def _cosines(weights_EP: Tensor, norms_E: Tensor) -> NDArray[np.float64]:
    unit_EP = weights_EP / norms_E.clamp(min=1e-30)[:, None]
    E, P = unit_EP.shape
    if E <= ALL_EXACT_UP_TO:
        return np.asarray((unit_EP @ unit_EP.t()).double().cpu().numpy())
    # E^2 products of P numbers each are too many: a fixed sample of the coordinates rules out.
    generator = torch.Generator().manual_seed(P)
    index = torch.randperm(P, generator=generator)[:_SAMPLED].to(unit_EP.device)
    part_ES = unit_EP[:, index]
    part_ES = part_ES / part_ES.norm(dim=1).clamp(min=1e-30)[:, None]
    rough = (part_ES @ part_ES.t()).cpu().numpy()
    rows, columns = np.triu_indices(E, k=1)
    best = np.argsort(-rough[rows, columns], kind="stable")[:_CANDIDATES]
    i, j = torch.tensor(rows[best]), torch.tensor(columns[best])
    exact = (unit_EP[i] * unit_EP[j]).sum(dim=1).double().cpu().numpy()
    cosines = np.full((E, E), np.nan)
    np.fill_diagonal(cosines, 1.0)
    cosines[rows[best], columns[best]] = cosines[columns[best], rows[best]] = exact
    return cosines
