"""The end of exclusivity: twins that shared one logit start to compete.

A release is tried on the probe before it is made, and made when it is hardly felt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from chronorun.config.lifecycle import LifecycleConfig, SplitRelease
from chronorun.lifecycle.edit import births
from chronorun.lifecycle.edit.receipts import Reading, receipt
from chronorun.lifecycle.edit.saved import Edit
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.trial import trial
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.model.abilities import set_twins
from chronorun.model.population import LOGIT_OFFSET
from chronorun.model.shapes import Routing

WIDER = (2.0, 4.0, 8.0, 16.0)
"""Multiples of ``split_router_delta`` that a pair at the limit of its exclusivity is offered."""
Release = tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]], float]
"""The record of a release, what it writes by expert, and the offset that both twins get."""


class Releases:
    """Keeps exclusive pairs even, and releases them. ``read(layer_id, step)`` reads the probe."""

    def __init__(
        self,
        surgeon: Surgeon,
        tap: InputTap,
        config: LifecycleConfig,
        read: Callable[[int, int], Reading | None],
    ) -> None:
        self.surgeon, self.tap, self.config, self.read = surgeon, tap, config, read
        self._loss_as_is: float | None = None

    @property
    def registry(self) -> Registry:
        """All experts."""
        return self.surgeon.registry

    def balance(self) -> None:
        """Let each exclusive pair share its newest tokens evenly: a plane left alone grows stale.

        The pair's tokens drift as its layer learns, and one twin would starve.
        """
        for child, parent in self.registry.twins.items():
            layer_id, plane = self.registry[child].layer_id, self.surgeon.planes[child]
            slots = [self.registry.slot_of(name) for name in (parent, child)]
            inputs = self.tap.inputs(layer_id, slots)
            if inputs is None or not len(inputs):
                continue
            threshold = (inputs @ plane.direction_D.to(inputs)).median()
            self.surgeon.planes[child] = replace(plane, threshold=threshold)
        for layer_id in {self.registry[child].layer_id for child in self.registry.twins}:
            set_twins(self.surgeon.layers[layer_id], self.surgeon.twins(layer_id))

    def due(
        self, step: int, checkpoint_of: Mapping[str, int]
    ) -> Iterator[tuple[str, dict[str, Any], float]]:
        """Let the twins compete that may; yields (child, record with a receipt, common offset).

        ``checkpoint_of`` tells for how many checkpoints each expert has been in its state.
        """
        self._loss_as_is = None
        for child, parent in list(self.registry.twins.items()):
            age = checkpoint_of[child]
            if age < self.config.cooling_period:
                continue
            late = age >= self.config.split_release_limit
            record, values, common = self._gentlest_release(step, parent, child, late)
            shock = record["receipt"].get("probe_shock")
            wait = self.config.split_release is SplitRelease.shock and not late
            if wait and shock is not None and shock > self.config.split_release_shock:
                continue
            self._release(child, values)
            yield child, record, common

    def take_loss(self) -> float | None:
        """Return the probe's loss as things are, if ``due`` read it and then left all as it was.

        Whoever asks the probe next at that checkpoint is spared a forward; afterwards it is stale.
        """
        loss, self._loss_as_is = self._loss_as_is, None
        return loss

    def _gentlest_release(self, step: int, parent: str, child: str, late: bool) -> Release:
        """Return a release by ``split_router_delta`` or, of a pair that cannot wait, a wider one.

        At top-2 near-twins fill both places of a token. The further apart their rows, the more the
        worse of the two gives way, as it did while they were exclusive.
        """
        release = self._try_release(step, parent, child, self.config.split_router_delta)
        for factor in WIDER if late else ():
            shock = shock_of(release)
            if shock is None or shock <= self.config.split_release_shock:
                break
            wider = self._try_release(step, parent, child, factor * self.config.split_router_delta)
            release = min(release, wider, key=lambda one: shock_of(one) or 0.0)
        return release

    def _released(
        self, parent: str, child: str, routing: Routing | None, delta: float
    ) -> tuple[dict[str, dict[str, torch.Tensor]], float]:
        """Return what twins have in the router once they compete, by expert, and their offset.

        The better of two logits is above the one they shared, so a pair would gain tokens: one
        offset for both gives it the fraction of the tokens of ``routing`` that it had.
        """
        values, plane = self.surgeon.read(parent).values, self.surgeon.planes[child]
        rows = births.released(values, plane.direction_D, plane.threshold, delta)
        common = 0.0
        if routing is not None:
            slots = self.registry.slot_of(parent), self.registry.slot_of(child)
            common = births.common_offset(rows, routing, slots)
            for each in rows:
                each[LOGIT_OFFSET] = each[LOGIT_OFFSET] + common
        return dict(zip((parent, child), rows, strict=True)), common

    def _try_release(self, step: int, parent: str, child: str, delta: float) -> Release:
        """Return the record of a release as it would be felt, and what it would write."""
        layer_id = self.registry[child].layer_id
        slots, layer = self.registry.slots(layer_id), self.surgeon.layers[layer_id]
        before = self.read(layer_id, step)
        routing = None if before is None else before.routing
        if routing is None:
            routing = self.tap.routing.get(layer_id)
        values, common = self._released(parent, child, routing, delta)
        felt: dict[str, Any] = {}
        if before is not None:
            self._loss_as_is = before.loss
            rest = [t for t in self.surgeon.twins(layer_id) if slots[t.child] != child]
            write = {slots.index(name): each for name, each in values.items()}
            with trial(
                layer,
                range(len(slots)),
                write=write,
                pairs=rest,
                pairs_after=self.surgeon.twins(layer_id),
            ):
                after = self.read(layer_id, step)
            assert after is not None
            felt = receipt(before, after, [parent, child])
        record = {
            "step": step,
            "layer_id": layer_id,
            "expert_id": child,
            "parent_id": parent,
            "event": "released",
            "router_delta": delta,
            "receipt": felt,
        }
        return record, values, common

    def _release(self, child: str, values: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        self._loss_as_is = None
        layer_id = self.registry[child].layer_id
        for expert_id, each in values.items():
            self.surgeon.write(expert_id, each)
        self.registry.release(child)
        self.surgeon.apply(Edit(layer_id))


def shock_of(release: Release) -> float | None:
    """Return what the probe felt of a release, relative; None without a probe."""
    shock: float | None = release[0]["receipt"].get("probe_shock")
    return shock
