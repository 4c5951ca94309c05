"""Routing telemetry: events, metrics, snapshots, alerts, and the recorder on the device.

Names, fields and thresholds are those of ChronoMoEv2 0.2.0; its log files can be read here and ours
there. Nothing but the recorder and its buffers imports torch. v2's ``ExpertState`` is not among
them: the registry of ``chronorun.lifecycle`` has taken its place, and there the name is that of the
stages of an expert's life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.core.exports import lazy_exports

if TYPE_CHECKING:
    from chronorun.telemetry.alerts import AlertHistory, check_immediate_alerts
    from chronorun.telemetry.events import RoutingEvent
    from chronorun.telemetry.manifest import create_run_manifest, get_git_commit
    from chronorun.telemetry.metrics import (
        compute_entropy,
        compute_gini_coefficient,
        compute_layer_metrics,
        compute_n_effective,
        compute_top2_share,
        compute_utilization_shares,
        count_dead_experts,
        count_nearly_dead_experts,
    )
    from chronorun.telemetry.recorder import RoutingRecorder
    from chronorun.telemetry.snapshots import LayerSnapshot, SystemSnapshot
    from chronorun.telemetry.windows import LayerWindow, WindowStats
    from chronorun.telemetry.writer import (
        TelemetryWriter,
        load_events,
        load_manifest,
        load_snapshots,
    )

__all__ = [
    "AlertHistory",
    "LayerSnapshot",
    "LayerWindow",
    "RoutingEvent",
    "RoutingRecorder",
    "SystemSnapshot",
    "TelemetryWriter",
    "WindowStats",
    "check_immediate_alerts",
    "compute_entropy",
    "compute_gini_coefficient",
    "compute_layer_metrics",
    "compute_n_effective",
    "compute_top2_share",
    "compute_utilization_shares",
    "count_dead_experts",
    "count_nearly_dead_experts",
    "create_run_manifest",
    "get_git_commit",
    "load_events",
    "load_manifest",
    "load_snapshots",
]

_WHERE = {
    "alerts": ("AlertHistory", "check_immediate_alerts"),
    "events": ("RoutingEvent",),
    "manifest": ("create_run_manifest", "get_git_commit"),
    "metrics": (
        "compute_entropy",
        "compute_gini_coefficient",
        "compute_layer_metrics",
        "compute_n_effective",
        "compute_top2_share",
        "compute_utilization_shares",
        "count_dead_experts",
        "count_nearly_dead_experts",
    ),
    "recorder": ("RoutingRecorder",),
    "snapshots": ("LayerSnapshot", "SystemSnapshot"),
    "windows": ("LayerWindow", "WindowStats"),
    "writer": ("TelemetryWriter", "load_events", "load_manifest", "load_snapshots"),
}

__getattr__, __dir__ = lazy_exports(
    __name__, {name: module for module, names in _WHERE.items() for name in names}
)
