"""Test whether the inputs of one expert fall into two populations, and the plane between them.

Any clustering finds two clusters, and with fewer inputs than dimensions it finds them far apart.
So the plane is fitted on one half of the inputs and judged on the other, both ways, and what
counts is how far the clusters are apart beyond those into which a plane cuts one Gaussian. The
work is done on the CPU in float64 on a few hundred inputs: the same bits on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_INPUTS = 8
"""Fewer inputs are not judged: score 0."""

_POWER_ITERATIONS = 30
_LLOYD_ITERATIONS = 10
_GAUSSIAN_DISTANCE = math.sqrt((2.0 / math.pi) / (1.0 / 4.0 - 1.0 / (2.0 * math.pi)))
"""Distance of the means of a Gaussian's two halves in units of their standard deviation, 2.65; cuts
elsewhere give less."""
_HALF_SCORE_EXCESS = 2.0
"""Standard deviations beyond that of a Gaussian at which the separation is 1/2."""
_STANDARD_ERRORS = 2.0
"""The distance is taken this many standard errors lower: few inputs prove little."""
_ROUNDING = 1e-6
"""A spread below this fraction of the inputs' size is float32 rounding."""


@dataclass(frozen=True, eq=False)
class TwoModes:
    """The plane ``x . direction = threshold``, and how well it parts two populations.

    ``direction_D`` is a unit vector, its largest component positive; ``threshold`` a scalar, the
    median of the inputs along it; both float32 on the device of the inputs. ``separation`` is in
    [0, 1): about 0 for one Gaussian, 1/2 for clusters 4.6 standard deviations apart;
    ``balance = 4 p (1 - p)`` with p the fraction of inputs in one cluster; ``score`` their product.
    Both are 0 for inputs that are not judged.
    """

    direction_D: Tensor
    threshold: Tensor
    score: float
    balance: float
    separation: float


def two_modes(x_ND: Tensor) -> TwoModes:
    """Fit and judge the plane between two populations among one expert's inputs.

    Constant inputs and fewer than 8 score 0. The direction is Fisher's between the clusters of
    2-means; of fewer than 8 inputs their leading principal one, and of constant ones the first
    axis. A threshold at the median sends half of the inputs to each side; no inputs: 0.
    """
    rows_ND = _in_double(x_ND)
    few = len(rows_ND) < MIN_INPUTS
    separation, balance = _judge(rows_ND)
    if _is_constant(rows_ND):
        direction_D = torch.zeros_like(rows_ND.sum(0))
        direction_D[0] = 1.0
    elif few:
        direction_D = _principal_direction(rows_ND - rows_ND.mean(0))
    else:
        direction_D, _ = _fit_plane(rows_ND)
    direction_D = _fix_sign(direction_D).float()
    # Of the rounded direction, which is the one that inputs are compared along.
    threshold = _median(rows_ND @ direction_D.double()).float()
    return TwoModes(
        direction_D.to(x_ND.device),
        threshold.to(x_ND.device),
        separation * balance,
        balance,
        separation,
    )


def two_mode_score(x_ND: Tensor) -> float:
    """Return the score of ``two_modes`` alone, without its plane: a third of the work less."""
    separation, balance = _judge(_in_double(x_ND))
    return separation * balance


def _in_double(x_ND: Tensor) -> Tensor:
    return x_ND.detach().to("cpu", torch.float64)


def _judge(x_ND: Tensor) -> tuple[float, float]:
    """Return (separation, balance) on inputs that the plane was not fitted on."""
    if len(x_ND) < MIN_INPUTS:
        return 0.0, 0.0
    halves = _halves(x_ND)
    distance = scatter = 0.0
    balance = 1.0
    for fitted_ND, held_out_ND in (halves, halves[::-1]):
        if _is_constant(fitted_ND):
            return 0.0, 0.0
        direction_D, middle = _fit_plane(fitted_ND)
        along_N = held_out_ND @ direction_D - middle
        side_N = along_N > 0.0
        if side_N.all() or not side_N.any():
            return 0.0, 0.0
        upper, lower = along_N[side_N], along_N[~side_N]
        distance += float(upper.mean() - lower.mean()) / 2.0
        for part in (upper, lower):
            scatter += float((part - part.mean()).square().sum())
        p = len(upper) / len(along_N)
        # The lesser: a half in which a small cluster was missed is cut through its middle.
        balance = min(balance, 4.0 * p * (1.0 - p))
    return _separation(distance, scatter, len(x_ND) - 4), balance


def _halves(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    # A coin parts each two neighbours: both halves see every stretch of the inputs, as drawn halves
    # might not, and neither follows a pattern that repeats, as every second input could.
    first_N = 2 * torch.arange(len(x_ND) // 2)
    coin_N = torch.randint(2, first_N.shape, generator=torch.Generator().manual_seed(0))
    chosen_N = torch.zeros(len(x_ND), dtype=torch.bool)
    chosen_N[first_N + coin_N] = True
    return x_ND[chosen_N], x_ND[~chosen_N]


def _separation(distance: float, scatter: float, freedom: int) -> float:
    """Return the separation of clusters so far apart, of a summed square scatter within them."""
    deviation = max(math.sqrt(scatter / freedom), _ROUNDING * distance)
    # A standard deviation of m degrees of freedom has a relative standard error of 1 / sqrt(2 m).
    trusted = 1.0 - _STANDARD_ERRORS / math.sqrt(2.0 * freedom)
    excess = max(0.0, trusted * distance / deviation - _GAUSSIAN_DISTANCE)
    return excess**2 / (excess**2 + _HALF_SCORE_EXCESS**2)


def _fit_plane(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit direction that parts the clusters of 2-means, and the middle along it.

    Fisher's direction parts them better than the difference of their centroids when some
    dimensions are noisier than others (measured: 10.2 against 6.6 standard deviations), and equally
    well when not. The covariance is shrunk, so that it holds with fewer inputs than dimensions.
    """
    centred_ND = x_ND - x_ND.mean(0)
    side_N = _two_means(centred_ND)
    upper_D, lower_D = x_ND[side_N].mean(0), x_ND[~side_N].mean(0)
    residual_ND = x_ND - torch.where(side_N[:, None], upper_D, lower_D)
    direction_D = upper_D - lower_D
    if not _is_constant(residual_ND, of=x_ND):
        direction_D = torch.linalg.solve(_shrunk_covariance(residual_ND), direction_D)
    direction_D = direction_D / direction_D.norm()
    return direction_D, (upper_D + lower_D) @ direction_D / 2.0


def _two_means(x_ND: Tensor) -> Tensor:
    """Return side_N of 2-means, started at the sign along the leading principal direction.

    Centroids are sums weighted by the side: no input is copied.
    """
    side_N = x_ND @ _principal_direction(x_ND) > 0.0
    all_D = x_ND.sum(0)
    for _ in range(_LLOYD_ITERATIONS):
        upper_N, n_upper = side_N.double(), side_N.sum()
        sum_D = upper_N @ x_ND
        upper_D, lower_D = sum_D / n_upper, (all_D - sum_D) / (len(x_ND) - n_upper)
        apart_D = upper_D - lower_D
        moved_N = x_ND @ apart_D > (upper_D + lower_D) @ apart_D / 2.0
        if torch.equal(moved_N, side_N):
            break
        side_N = moved_N
    return side_N


def _principal_direction(x_ND: Tensor) -> Tensor:
    """Return the leading principal direction of centred inputs, by power iteration.

    It starts at the longest input. Where the squares of all inputs sum to 1, the largest eigenvalue
    is between 1 / D and 1: without rescaling nothing overflows, and it stays far above underflow.
    """
    unit_ND = x_ND.div(x_ND.norm())
    wide = len(unit_ND) <= unit_ND.shape[1]
    factors = [unit_ND, unit_ND.t()] if wide else [unit_ND.t() @ unit_ND]
    direction_D = unit_ND[unit_ND.square().sum(1).argmax()]
    for factor in factors * _POWER_ITERATIONS:
        direction_D = factor @ direction_D
    return direction_D.div(direction_D.norm())


def _shrunk_covariance(residual_ND: Tensor) -> Tensor:
    """Return the covariance [D, D] of residuals, shrunk towards a multiple of the identity.

    By oracle approximating shrinkage (Chen et al. 2010, arXiv:0907.4698, eq. 23). Two means were
    taken off, so n is two less.
    """
    n, D = len(residual_ND) - 2, residual_ND.shape[1]
    covariance = residual_ND.t() @ residual_ND / n
    trace, square = covariance.trace(), covariance.square().sum()
    wanted = (1.0 - 2.0 / D) * square + trace**2
    spread = (n + 1.0 - 2.0 / D) * (square - trace**2 / D)
    shrinkage = float(wanted / spread) if spread > wanted > 0.0 else 1.0
    identity = torch.eye(D, dtype=covariance.dtype)
    return (1.0 - shrinkage) * covariance + shrinkage * trace / D * identity


def _is_constant(x_ND: Tensor, of: Tensor | None = None) -> bool:
    """Return whether all inputs are equal up to rounding, at the scale of ``of``."""
    if len(x_ND) < 2:
        return True
    spread = float((x_ND - x_ND.mean(0)).square().sum())
    size = float((x_ND if of is None else of).square().sum())
    return spread <= _ROUNDING**2 * size


def _fix_sign(direction_D: Tensor) -> Tensor:
    return direction_D * direction_D[direction_D.abs().argmax()].sign()


def _median(values_N: Tensor) -> Tensor:
    # torch.median returns the lower of the two middle values: rounding could put it on either side.
    N = len(values_N)
    if N == 0:
        return values_N.new_zeros(())
    ordered_N = values_N.sort().values
    return (ordered_N[(N - 1) // 2] + ordered_N[N // 2]) / 2.0
