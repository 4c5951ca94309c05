"""The lens: a small shift of the router's input, ``x' = x + s d``.

``d`` is a unit vector in model space made from the router's live weight rows and the window's
shares. At ``s = 0`` the input itself is returned. The low-rank residual acts where no router is
attached, or where asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from chronorun.core.state import from_plain

Rows = Callable[[], Tensor]


@dataclass(frozen=True)
class LensState:
    """A record of v2 for loops that keep one; nothing reads it, here or in v2.

    ``mode`` is TRAIN or INFER, ``layer_metrics`` figures by layer, ``meta`` anything.
    """

    step: int
    mode: str
    pressure: float = 0.0
    heat: float = 0.0
    forgetting: float = 0.0
    layer_metrics: dict[int, dict[str, float]] | None = None
    meta: dict[str, Any] | None = None


class SteeringMode(Enum):
    """Ways to choose the direction."""

    ANTI_DOMINANCE = "anti_dominance"
    ENTROPY_MAX = "entropy_max"
    LIFT_TAIL = "lift_tail"
    ABSTAIN = "abstain"


def steering_direction(rows_ED: Tensor, shares_E: Tensor, mode: SteeringMode) -> Tensor | None:
    """Return the unit direction [D], or None where the mode abstains.

    anti_dominance: ``sum_e (1/n - share_e) W_e``; entropy_max: the same with W centred on its mean
    row; lift_tail: only the positive weights, normalised. A zero sum gives a zero vector.
    """
    if mode is SteeringMode.ABSTAIN:
        return None
    weight_E = 1.0 / len(shares_E) - shares_E
    if mode is SteeringMode.ENTROPY_MAX:
        rows_ED = rows_ED - rows_ED.mean(dim=0)
    if mode is SteeringMode.LIFT_TAIL:
        weight_E = weight_E.clamp(min=0.0)
        weight_E = weight_E / weight_E.sum().clamp(min=1e-12)
    direction = weight_E @ rows_ED
    unit: Tensor = direction / direction.norm().clamp(min=1e-12)
    return unit


class ChronoLens(nn.Module):
    """Lens of one layer.

    The parameters come from a generator of their own, so that a run with a lens draws the same
    random numbers as one without.
    """

    def __init__(self, d_model: int, rank: int = 8, layer_id: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0x1E45 + layer_id)
        self.layer_id = layer_id
        self.rank = rank
        self.s = 0.0
        self.mode = SteeringMode.ANTI_DOMINANCE
        self.use_low_rank = False
        self.V = nn.Parameter(1e-3 * torch.randn(d_model, rank, generator=generator))
        self.U = nn.Parameter(1e-3 * torch.randn(rank, d_model, generator=generator))
        self._rows: Rows | None = None
        self._shares: Tensor | None = None

    def set_scale(self, s: float) -> None:
        """Set the scale; 0 makes the lens the identity."""
        self.s = float(s)

    def set_steering_mode(self, mode: SteeringMode | str) -> None:
        """Choose how the direction is made."""
        self.mode = SteeringMode(mode)

    def set_router_weights(self, rows: Tensor | Rows) -> None:
        """Attach a router: its weight [n, D], or a function that returns the live one."""
        self._rows = (lambda: rows) if isinstance(rows, Tensor) else rows

    def update_steering(self, utilization_shares: Sequence[float] | Tensor) -> None:
        """Take the shares of the newest window.

        They go to the device here, once a window: a copy in each forward would stall a GPU.
        """
        shares_E = torch.as_tensor(utilization_shares, dtype=torch.float32, device=self.V.device)
        self._shares = shares_E.detach().clone()

    def keep_slots(self, keep: Sequence[int], added: int) -> None:
        """Follow a change of the population: keep these slots' shares, in this order.

        Newcomers count as even; nothing is known of them before the next window.
        """
        if self._shares is None:
            return
        n = len(keep) + added
        index = torch.tensor(list(keep), dtype=torch.int64, device=self._shares.device)
        kept_E = self._shares.index_select(0, index)
        kept_E = kept_E / kept_E.sum().clamp(min=1e-12) * (len(keep) / n)
        self._shares = torch.cat([kept_E, kept_E.new_full((added,), 1.0 / n)])

    def direction(self) -> Tensor | None:
        """Return the direction from the live rows; None without router, shares or mode.

        None, too, where the shares are those of another population.
        """
        if self._rows is None or self._shares is None:
            return None
        rows_ED = self._rows().detach().float()
        shares_E = self._shares.to(rows_ED.device)
        if len(shares_E) != rows_ED.shape[0]:
            return None
        return steering_direction(rows_ED, shares_E, self.mode)

    def get_norms(self) -> dict[str, float]:
        """Return the norms of U and V as ``u_norm`` and ``v_norm``."""
        return {"u_norm": float(self.U.detach().norm()), "v_norm": float(self.V.detach().norm())}

    def forward(self, x: Tensor) -> Tensor:
        """Shift the router's input [..., D]; returns ``x`` itself when the scale is 0."""
        if self.s == 0.0:
            return x
        if self._rows is None or self.use_low_rank:
            return x + self.s * ((x @ self.V) @ self.U)
        direction = self.direction()
        return x if direction is None else x + self.s * direction.to(x.dtype)

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs; a module's ``state_dict`` knows its parameters alone."""
        return {
            "s": self.s,
            "mode": self.mode.value,
            "shares": None if self._shares is None else self._shares.clone(),
            "U": self.U.detach().clone(),
            "V": self.V.detach().clone(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.s = from_plain(float, state["s"])
        self.mode = SteeringMode(state["mode"])
        shares = from_plain(Tensor | None, state["shares"])
        self._shares = None
        if shares is not None:
            self.update_steering(shares)
        with torch.no_grad():
            self.U.copy_(state["U"])
            self.V.copy_(state["V"])


class IdentityLens(nn.Module):
    """A lens that never does anything, for layers that shall not be steered."""

    s = 0.0
    rank = 0

    def __init__(self, layer_id: int = 0) -> None:
        super().__init__()
        self.layer_id = layer_id

    def set_scale(self, s: float) -> None:
        """Do nothing."""

    def set_steering_mode(self, mode: SteeringMode | str) -> None:
        """Do nothing."""

    def set_router_weights(self, rows: Tensor | Rows) -> None:
        """Do nothing."""

    def update_steering(self, utilization_shares: Sequence[float] | Tensor) -> None:
        """Do nothing."""

    def keep_slots(self, keep: Sequence[int], added: int) -> None:
        """Do nothing."""

    def get_norms(self) -> dict[str, float]:
        """Return zeros."""
        return {"u_norm": 0.0, "v_norm": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` itself."""
        return x


def compute_lens_aux_loss(
    router_probs: Tensor, target_entropy: float = 1.386, top2_target: float = 0.5
) -> Tensor:
    """Return a loss that trains a lens's low-rank part, a scalar.

    Of the mean router probabilities over all tokens [..., n]: the squared shortfall of their
    entropy (nats) below ``target_entropy`` plus the squared excess of their top-2 share. The
    defaults, v2's, are those of four even experts.
    """
    mean_E = router_probs.reshape(-1, router_probs.shape[-1]).mean(dim=0)
    entropy = -torch.xlogy(mean_E, mean_E).sum()
    top2 = mean_E.topk(min(2, len(mean_E))).values.sum()
    return (target_entropy - entropy).clamp(min=0).square() + (
        (top2 - top2_target).clamp(min=0).square()
    )
