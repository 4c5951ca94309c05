"""Hooks before and after ``optimizer.step()``: newborn experts start gently, dormant ones freeze.

Everything is done after the fused step, on the device and without a host sync: gradients cannot be
scaled to the same end, because Adam's update does not depend on their scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from chronorun.core.processes import ALONE, Processes
from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.edit.moments import slot_state
from chronorun.model.population import PopulationLayer

Betas = tuple[float, float]
_SETTLED = 5e-4
"""Both factors of the correction this close to 1: the product is within 1e-3 of 1 for good."""


def correction_factors(updates: int, steps: int, betas: Betas | None) -> tuple[float, float]:
    """Return what turns Adam's bias correction of a tensor into that of one slot, as two factors.

    Algorithm 1 of Kingma & Ba 2015 (arXiv:1412.6980) updates by lr * m^ / sqrt(v^) after t steps,
    where m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t) make up for averages that began at 0. One step
    count serves all slots of a tensor; but the averages of a slot that was zeroed s updates ago are
    those of an Adam that began then, with m^ = m / (1 - b1^s) and v^ = v / (1 - b2^s). Its update
    is thus the one made times

        c(s) = [(1 - b1^t) / (1 - b1^s)] * sqrt[(1 - b2^s) / (1 - b2^t)],

    at b2 = 0.999 and a late t 0.15 for s = 12 and 0.63 for s = 500. Exact up to Adam's eps. Weight
    decay is part of the update made, and scaled with it (in a fresh AdamW it would not be).
    """
    if betas is None:
        return 1.0, 1.0
    (b1, b2), s, t = betas, updates, steps
    return (1.0 - b1**t) / (1.0 - b1**s), ((1.0 - b2**s) / (1.0 - b2**t)) ** 0.5


@dataclass
class _Rewarm:
    """An expert being re-warmed: by tensor name, its updates s and the optimizer's steps t."""

    layer_id: int
    updates: dict[str, int]
    steps: dict[str, int]


class UpdateGuard:
    """Re-warms blank slots and freezes dormant ones, around the steps of one optimizer.

    ``slot_of`` gives the slot of a live expert and is asked at every step, since slots move; call
    ``forget`` for an expert that leaves. ``rewarm_steps`` is the length of the linear ramp, in
    updates (0: no ramp). s and t are counted on the host: an update that fused AdamW skips on the
    device (``found_inf``) counts too. Accepted: weights stay as they are either way, and such a run
    ends at the next look at the flag.
    """

    def __init__(
        self,
        layers: Mapping[int, PopulationLayer],
        slot_of: Callable[[str], int],
        rewarm_steps: int,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.layers = layers
        self.slot_of = slot_of
        self.rewarm_steps = rewarm_steps
        self._optimizer: Optimizer | None = None
        self._hooks: list[Any] = []
        self._rewarms: dict[str, _Rewarm] = {}
        self._dormant: dict[int, list[str]] = {}
        self._tokens: dict[int, Tensor] = {}
        self._indexes: dict[int, tuple[tuple[int, ...], Tensor]] = {}
        self._after: list[Callable[[], None]] = []

    def attach(self, optimizer: Optimizer) -> None:
        """Hook into the steps of this optimizer, and of no other."""
        self.detach()
        self._optimizer = optimizer
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def detach(self) -> None:
        """Leave the optimizer's steps alone; what is guarded is kept."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._optimizer = [], None

    def start_rewarm(self, layer_id: int, expert_id: str) -> None:
        """Re-warm an expert whose moments are all 0, router row included, from its next update on.

        Reads the optimizer's step counts, once: call it after ``move_moments``.
        """
        assert self._optimizer is not None, "attach an optimizer first"
        groups = _groups(self._optimizer)
        steps = {
            name: int(self._optimizer.state.get(tensor, {}).get("step", 0))
            for name, tensor in self.layers[layer_id].slot_tensors().items()
            if id(tensor) in groups
        }
        self._rewarms[expert_id] = _Rewarm(layer_id, dict.fromkeys(steps, 0), steps)

    def set_dormant(self, layer_id: int, expert_ids: Sequence[str]) -> None:
        """Name the experts of a layer that were dormant at the last evaluation."""
        self._dormant.pop(layer_id, None)
        if expert_ids:
            self._dormant[layer_id] = list(dict.fromkeys(expert_ids))

    def count_tokens(self, layer_id: int, tokens_per_expert_E: Tensor) -> None:
        """Add the assignments of one micro-batch; those of other processes are added at the step.

        A layer without counts freezes no expert at the step.
        """
        if layer_id not in self._dormant:
            return
        counted = self._tokens.get(layer_id)
        if counted is None:
            self._tokens[layer_id] = tokens_per_expert_E.detach().clone()
        else:
            counted += tokens_per_expert_E

    def forget(self, expert_id: str) -> None:
        """Drop an expert that is no longer live."""
        self._rewarms.pop(expert_id, None)
        for layer_id, expert_ids in list(self._dormant.items()):
            self.set_dormant(layer_id, [i for i in expert_ids if i != expert_id])

    def state_dict(self) -> dict[str, Any]:
        """Return plain JSON data, to be taken between steps."""
        return to_plain({"rewarms": self._rewarms, "dormant": self._dormant})

    def load_state_dict(self, plain: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._rewarms = from_plain(dict[str, _Rewarm], plain["rewarms"])
        self._dormant = from_plain(dict[int, list[str]], plain["dormant"])
        self._tokens = {}

    def _before_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._after = []
        if not self._rewarms and not self._dormant:
            return
        groups = _groups(optimizer)
        self._tokens = {i: self.processes.sum(self._tokens[i]) for i in sorted(self._tokens)}
        for expert_id, rewarm in self._rewarms.items():
            slot, tensors = self.slot_of(expert_id), self.layers[rewarm.layer_id].slot_tensors()
            for name in rewarm.updates:
                parameter = tensors[name]
                betas, before = groups[id(parameter)].get("betas"), parameter.detach()[slot].clone()
                self._after.append(
                    partial(self._blend, expert_id, name, parameter, slot, before, betas)
                )
        for layer_id in self._dormant:
            for name, parameter in self.layers[layer_id].slot_tensors().items():
                # Router rows keep learning: they are what may bring an expert back.
                if id(parameter) not in groups or name.startswith("router."):
                    continue
                index_S = self._index(layer_id, parameter.device)
                saved = {
                    entry: value.index_select(0, index_S)
                    for entry, value in _by_slot(optimizer, parameter).items()
                }
                self._after.append(
                    partial(self._restore, optimizer, layer_id, parameter, index_S, saved)
                )

    def _index(self, layer_id: int, device: torch.device) -> Tensor:
        slots = tuple(self.slot_of(expert_id) for expert_id in self._dormant[layer_id])
        known = self._indexes.get(layer_id)
        if known is not None and known[0] == slots and known[1].device == device:
            return known[1]
        index_S = torch.tensor(slots, dtype=torch.int64)
        if device.type == "cuda":
            # From pinned memory the copy is asynchronous; a plain one would wait for the device.
            index_S = index_S.pin_memory().to(device, non_blocking=True)
        self._indexes[layer_id] = slots, index_S
        return index_S

    @torch.no_grad()
    def _after_step(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for task in self._after:
            task()
        self._after, self._tokens = [], {}
        self._rewarms = {i: rewarm for i, rewarm in self._rewarms.items() if rewarm.updates}

    def _blend(
        self,
        expert_id: str,
        name: str,
        parameter: Tensor,
        slot: int,
        before: Tensor,
        betas: Betas | None,
    ) -> None:
        # The optimizer passes over a parameter without a gradient, and does not count it.
        if parameter.grad is None:
            return
        rewarm = self._rewarms[expert_id]
        rewarm.steps[name] += 1
        # A frozen slot makes no update. Whether it got tokens after all only the device knows;
        # counting too few is the safe side, and ends with the next evaluation.
        listed = expert_id in self._dormant.get(rewarm.layer_id, ())
        if not listed or name.startswith("router.") or not rewarm.updates[name]:
            rewarm.updates[name] += 1
        s = rewarm.updates[name]
        first, second = correction_factors(s, rewarm.steps[name], betas)
        ramp = min(1.0, s / self.rewarm_steps) if self.rewarm_steps else 1.0
        after = parameter.detach()[slot]
        after.copy_(torch.lerp(before, after, first * second * ramp))
        if s >= self.rewarm_steps and max(abs(first - 1.0), abs(second - 1.0)) < _SETTLED:
            del rewarm.updates[name], rewarm.steps[name]

    def _restore(
        self,
        optimizer: Optimizer,
        layer_id: int,
        parameter: Tensor,
        index_S: Tensor,
        saved: dict[str, Tensor],
    ) -> None:
        tokens_E = self._tokens.get(layer_id)
        if tokens_E is None:
            # Not counted: it may have had tokens, and must not lose its update.
            return
        for entry, value in _by_slot(optimizer, parameter).items():
            after = value.index_select(0, index_S)
            # State that this very step created began at 0.
            kept = saved[entry] if entry in saved else torch.zeros_like(after)
            idle_S = tokens_E.index_select(0, index_S) == 0
            kept = torch.where(idle_S.view(-1, *[1] * (after.ndim - 1)), kept, after)
            value.index_copy_(0, index_S, kept)


def _by_slot(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return the weights themselves, as entry "", and the state of their shape."""
    return {"": parameter.detach(), **slot_state(optimizer, parameter)}


def _groups(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """Return the param group of each parameter, by the parameter's id."""
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}
