"""Runs the lifecycle after each update of a controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.lifecycle.coordinator import LifecycleCoordinator
from chronorun.lifecycle.record.decisions import LifecycleDecision

if TYPE_CHECKING:
    from chronorun.governance.controller import Controller
    from chronorun.governance.decisions import ControlDecision
    from chronorun.telemetry.snapshots import SystemSnapshot


class LifecycleHook:
    """Calls ``coordinator.evaluate`` at the end of every ``Controller.update``."""

    def __init__(self, coordinator: LifecycleCoordinator) -> None:
        self.coordinator = coordinator
        self.last_actions: list[LifecycleDecision] = []

    def attach(self, controller: Controller) -> LifecycleHook:
        """Attach to a controller; returns itself."""
        controller.after_update.append(self)
        return self

    def __call__(self, snapshot: SystemSnapshot, decisions: list[ControlDecision]) -> None:
        """Evaluate; what was decided is in ``last_actions``."""
        self.last_actions = self.coordinator.evaluate(snapshot, decisions)
