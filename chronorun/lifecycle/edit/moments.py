"""Optimizer state that moves with experts: read, made for a child or a merge, carried over an edit.

An edit replaces the stacked parameters of a layer by new ones (``chronorun.model.population``).
What an optimizer remembers of each slot must follow, or untouched experts would feel the edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from chronorun.config.lifecycle import ChildMoments, MergedMoments
from chronorun.errors import UserError
from chronorun.model.population import PopulationLayer, rebuilt_rows

Moments = dict[str, dict[str, Tensor]]
"""Slot tensor name -> state entry (``exp_avg``, ``momentum_buffer``) -> values of one slot, without
the slot axis."""


def read_moments(layer: PopulationLayer, optimizer: Optimizer | None, slot: int) -> Moments:
    """Return a copy of what the optimizer remembers of one expert; {} where there is no state."""
    return {
        name: {entry: value[slot].clone() for entry, value in state.items()}
        for name, tensor in layer.slot_tensors().items()
        if (state := slot_state(optimizer, tensor))
    }


def write_moments(
    layer: PopulationLayer, optimizer: Optimizer | None, slot: int, moments: Moments
) -> None:
    """Overwrite in place what the optimizer remembers of one expert; what is not named becomes 0.

    Raises ValueError for values that the optimizer keeps no state for.
    """
    for name, tensor in layer.slot_tensors().items():
        state, values = slot_state(optimizer, tensor), moments.get(name, {})
        if unknown := sorted(values.keys() - state.keys()):
            raise ValueError(
                f"write_moments: {name} has values for {', '.join(unknown)}, expected some of "
                f"[{', '.join(state)}]; write to the optimizer that they were read from"
            )
        for entry, value in state.items():
            if entry in values:
                value[slot].copy_(values[entry])
            else:
                value[slot].zero_()


def child_moments(parent: Moments, how: ChildMoments) -> Moments:
    """Return the state of a new expert that starts from its parent's weights.

    ``scale`` expects half the parent's tokens: the mean of a gradient that is a sum over tokens
    halves, and so does its variance, which is most of its mean square. (A quarter, as for a
    gradient without noise, lets the child take steps of twice its parent's.)
    """
    first, second = {
        ChildMoments.zero_m: (0.0, 1.0),
        ChildMoments.zero: (0.0, 0.0),
        ChildMoments.zero_no_rewarm: (0.0, 0.0),
        ChildMoments.inherit: (1.0, 1.0),
        ChildMoments.scale: (0.5, 0.5),
    }[how]
    return _map(
        parent, lambda _, entry, v: _scaled(v, second if is_second_moment(entry) else first)
    )


def averaged_moments(
    survivor: Moments, absorbed: Moments, weight: float, how: MergedMoments
) -> Moments:
    """Return the state of a merge's survivor; ``weight`` is the survivor's part of an average."""
    if how is MergedMoments.survivor:
        return survivor
    return _map(
        survivor, lambda name, entry, v: weight * v + (1.0 - weight) * absorbed[name][entry]
    )


def is_second_moment(entry: str) -> bool:
    """Return whether a state entry averages squared gradients, by the names PyTorch gives them."""
    return entry.endswith(("_sq", "square_avg"))


def slot_state(optimizer: Optimizer | None, parameter: Tensor) -> dict[str, Tensor]:
    """Return the optimizer's state tensors of a parameter's shape, themselves, by entry."""
    # Never ask for the state of a parameter that has none: the optimizer's dict would create it.
    if optimizer is None or parameter not in optimizer.state:
        return {}
    return {
        entry: value
        for entry, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor) and value.shape == parameter.shape
    }


def move_moments(
    optimizer: Optimizer | None,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    keep: Sequence[int],
    new: Sequence[Moments] = (),
) -> None:
    """Hand the optimizer the parameters of a rebuilt layer, with the state of every slot.

    ``before`` and ``after`` are ``slot_tensors()`` around ``rebuild`` with the same ``keep`` and as
    many new experts as ``new``; a new expert starts at 0 where ``new`` says nothing. What has no
    slot axis (Adam's step count) stays. A parameter without state gets none, one that is in no
    group is left alone. Raises UserError, before anything is moved, for state that is neither
    of the parameter's shape nor a single number.
    """
    if optimizer is None:
        return
    names = [name for name, old in before.items() if isinstance(old, nn.Parameter)]
    for name in names:
        _check_state(optimizer, name, before[name])
    for name in names:
        old, parameter = before[name], after[name]
        assert parameter.shape[0] == len(keep) + len(new), "the layer was rebuilt differently"
        if not _replace(optimizer, old, parameter) or old not in optimizer.state:
            continue
        by_slot = slot_state(optimizer, old)
        optimizer.state[parameter] = optimizer.state.pop(old) | {
            entry: _rows(value, keep, [moments.get(name, {}).get(entry) for moments in new])
            for entry, value in by_slot.items()
        }


def optimizer_bytes(optimizer: Optimizer | None) -> int:
    """Return the bytes of all state tensors."""
    if optimizer is None:
        return 0
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def _scaled(value: Tensor, factor: float) -> Tensor:
    # A product with 0 would keep the sign of zeros, and a NaN.
    return torch.zeros_like(value) if factor == 0.0 else value * factor


def _map(moments: Moments, change: Callable[[str, str, Tensor], Tensor]) -> Moments:
    return {
        name: {entry: change(name, entry, value) for entry, value in entries.items()}
        for name, entries in moments.items()
    }


def _rows(old: Tensor, keep: Sequence[int], new: Sequence[Tensor | None]) -> Tensor:
    blank = old.new_zeros(old.shape[1:])
    return rebuilt_rows(old, keep, [blank if value is None else value for value in new])


def _replace(optimizer: Optimizer, old: Tensor, parameter: Tensor) -> bool:
    """Put ``parameter`` where ``old`` was in its group; return whether it was in one."""
    for group in optimizer.param_groups:
        for position, member in enumerate(group["params"]):
            if member is old:
                group["params"][position] = parameter
                return True
    return False


def _check_state(optimizer: Optimizer, name: str, parameter: Tensor) -> None:
    if parameter not in optimizer.state:
        return
    for entry, value in optimizer.state[parameter].items():
        if not isinstance(value, Tensor) or value.shape == parameter.shape or value.numel() == 1:
            continue
        raise UserError(
            f"optimizer: {entry} of {name} has shape {list(value.shape)}, expected "
            f"{list(parameter.shape)} or a single number; "
            f"use an optimizer with state per weight, such as AdamW"
        )
