"""Merging two MLP experts: match their hidden units first, then average the weights.

An MLP computes the same function whatever the order of its hidden units, so two experts can be
alike and have unlike weights. Their units are matched by their weights (Ainsworth et al. 2023,
"Git Re-Basin", arXiv:2209.04836, section 3.2, for one hidden layer, where it is exact; Singh and
Jaggi 2020, "Model Fusion via Optimal Transport", arXiv:1910.05653).

An expert is a mapping of weight names to tensors without the slot axis ("experts.w1" [D, F],
"experts.w2" [F, D]); ``hidden_axes`` names the axis of the F hidden units of those that have one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def align(
    values: Mapping[str, Tensor], reference: Mapping[str, Tensor], hidden_axes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return ``values`` with the hidden units in the order that matches ``reference`` best."""
    return permute_hidden(values, hidden_permutation(values, reference, hidden_axes), hidden_axes)


def hidden_permutation(
    values: Mapping[str, Tensor], reference: Mapping[str, Tensor], hidden_axes: Mapping[str, int]
) -> Tensor:
    """Return permutation_F: unit i of ``reference`` is matched by unit permutation_F[i].

    It maximises the sum over matched units and names of the dot products of their weights. int64
    on the CPU; empty without ``hidden_axes``.
    """
    from scipy.optimize import linear_sum_assignment

    if not hidden_axes:
        return torch.empty(0, dtype=torch.int64)
    similarity_FF = sum(
        _by_unit(reference[name], axis) @ _by_unit(values[name], axis).t()
        for name, axis in hidden_axes.items()
    )
    _, columns = linear_sum_assignment(similarity_FF, maximize=True)
    return torch.as_tensor(columns, dtype=torch.int64)


def permute_hidden(
    values: Mapping[str, Tensor], permutation_F: Tensor, hidden_axes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return ``values``, weights or their optimizer moments, with reordered hidden units.

    Tensors without a hidden axis are passed on as they are.
    """
    return {
        name: tensor.index_select(hidden_axes[name], permutation_F.to(tensor.device))
        if name in hidden_axes
        else tensor
        for name, tensor in values.items()
    }


def average(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], weight: float
) -> dict[str, Tensor]:
    """Return ``weight * first + (1 - weight) * second``; integer tensors, being counts, are added.

    Both have the same names. ``weight`` is in [0, 1].
    """
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    assert 0.0 <= weight <= 1.0, weight
    # lerp, because it returns equal values bit-equal: merging with oneself changes nothing.
    return {
        name: torch.lerp(second[name], tensor, weight)
        if tensor.is_floating_point()
        else tensor + second[name]
        for name, tensor in first.items()
    }


def _by_unit(tensor: Tensor, axis: int) -> Tensor:
    # On the CPU in float64: the assignment is solved there, and ties must not depend on a device.
    by_unit = tensor.detach().to("cpu", torch.float64).movedim(axis, 0)
    return by_unit.reshape(by_unit.shape[0], -1)
