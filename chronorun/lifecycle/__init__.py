"""The expert lifecycle: experts are born, split, merged, pruned and revived while a model trains.

    from chronorun.governance import ControlConfig, Controller
    from chronorun.lifecycle import LifecycleConfig, LifecycleCoordinator

At every evaluation checkpoint ``LifecycleCoordinator.evaluate`` turns a snapshot and the
controller's decisions into signals, the signals into candidates, and those that no limit holds back
into edits of the model, its router and its optimizer at once. The policies (``cycle``, one module
an action) are pure functions without torch, so that logs can be replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.core.exports import lazy_exports

if TYPE_CHECKING:
    from chronorun.config.lifecycle import LifecycleConfig
    from chronorun.lifecycle.actions import Action
    from chronorun.lifecycle.basins import BasinEntry, BasinHistory
    from chronorun.lifecycle.coordinator import LifecycleCoordinator
    from chronorun.lifecycle.cycle import advance
    from chronorun.lifecycle.decisions import LifecycleDecision
    from chronorun.lifecycle.hook import LifecycleHook
    from chronorun.lifecycle.logs import LifecycleLogs
    from chronorun.lifecycle.policy_state import PolicyState
    from chronorun.lifecycle.records import ExpertRecord
    from chronorun.lifecycle.registry import Registry
    from chronorun.lifecycle.signals import ExpertSignals, LayerSignals
    from chronorun.lifecycle.states import ExpertState, LifecycleError

__all__ = [
    "Action",
    "BasinEntry",
    "BasinHistory",
    "ExpertRecord",
    "ExpertSignals",
    "ExpertState",
    "LayerSignals",
    "LifecycleConfig",
    "LifecycleCoordinator",
    "LifecycleDecision",
    "LifecycleError",
    "LifecycleHook",
    "LifecycleLogs",
    "PolicyState",
    "Registry",
    "advance",
]

_WHERE = {
    "actions": ("Action",),
    "basins": ("BasinEntry", "BasinHistory"),
    "coordinator": ("LifecycleCoordinator",),
    "cycle": ("LifecycleConfig", "advance"),
    "decisions": ("LifecycleDecision",),
    "hook": ("LifecycleHook",),
    "logs": ("LifecycleLogs",),
    "policy_state": ("PolicyState",),
    "records": ("ExpertRecord",),
    "registry": ("Registry",),
    "signals": ("ExpertSignals", "LayerSignals"),
    "states": ("ExpertState", "LifecycleError"),
}

__getattr__, __dir__ = lazy_exports(
    __name__, {name: module for module, names in _WHERE.items() for name in names}
)
