"""Every public name of v2's telemetry: how it is called and what it starts with."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chronorun.telemetry as telemetry
from chronorun.telemetry import (
    RoutingEvent,
    SystemSnapshot,
    TelemetryWriter,
    compute_entropy,
    compute_gini_coefficient,
    compute_layer_metrics,
    compute_n_effective,
    compute_top2_share,
    compute_utilization_shares,
    count_dead_experts,
    count_nearly_dead_experts,
    create_run_manifest,
    load_events,
    load_manifest,
    load_snapshots,
)

NEEDED = inspect.Parameter.empty


def needed(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, NEEDED)


SIGNATURES: dict[str, dict[str, Any]] = {
    "compute_utilization_shares": needed("events", "layer_id"),
    "compute_entropy": needed("shares"),
    "compute_n_effective": needed("entropy"),
    "compute_top2_share": needed("shares"),
    "count_dead_experts": needed("shares"),
    "count_nearly_dead_experts": {**needed("shares"), "threshold": 0.01},
    "compute_gini_coefficient": needed("shares"),
    "compute_layer_metrics": needed("events", "layer_id"),
    "RoutingEvent.from_router_output": needed(
        "run_id", "step", "mode", "layer_id", "used_capacity", "n_experts", "top_k"
    ),
    "LayerSnapshot": needed(
        *("layer_id", "utilization_shares", "entropy", "dead_expert_count"),
        *("n_effective", "top2_share"),
    ),
    "SystemSnapshot": needed("step", "timestamp", "train_loss", "val_loss", "layers"),
    "SystemSnapshot.from_events": {
        **needed("events", "step", "train_loss", "val_loss", "run_id", "model_name", "n_layers"),
        "alert_history": None,
    },
    "check_immediate_alerts": needed("layers"),
    "TelemetryWriter": {"run_id": NEEDED, "output_dir": "outputs"},
    "TelemetryWriter.write_event": needed("event"),
    "TelemetryWriter.write_events_batch": needed("events"),
    "TelemetryWriter.write_snapshot": needed("snapshot"),
    "TelemetryWriter.write_manifest": needed("manifest"),
    "TelemetryWriter.flush_events": needed("events"),
    "load_events": needed("path"),
    "load_snapshots": needed("path"),
    "load_manifest": needed("path"),
    "create_run_manifest": {**needed("run_id", "model_name", "config"), "git_commit": None},
    "get_git_commit": {},
}


@pytest.mark.parametrize("dotted", SIGNATURES)
def test_a_name_is_called_as_in_v2(dotted: str) -> None:
    name, *method = dotted.split(".")
    assert name in telemetry.__all__
    called = getattr(telemetry, name)
    for part in method:
        called = getattr(called, part)
    parameters = inspect.signature(called).parameters
    found = {key: value.default for key, value in parameters.items() if key != "self"}
    expected = SIGNATURES[dotted]
    assert list(found.items())[: len(expected)] == list(expected.items())
    assert NEEDED not in list(found.values())[len(expected) :]


def test_an_events_fields_are_v2s() -> None:
    event = RoutingEvent(1.0, "r", 3, "TRAIN", 0, 4, 2, [3, 1, 0, 0], [0, 1])
    assert list(event.to_dict()) == [
        *("timestamp", "run_id", "step", "mode", "layer_id", "n_experts", "top_k"),
        *("expert_token_counts", "active_experts", "router_prob_sums", "loss", "aux_loss"),
        "token_count",
    ]
    assert event.to_dict()["token_count"] == event.token_count == 4
    assert (event.router_prob_sums, event.loss, event.aux_loss) == (None, None, None)


def test_metrics_are_the_tables() -> None:
    shares = np.array([0.5, 0.3, 0.195, 0.005, 0.0])
    entropy = -sum(s * math.log(s) for s in shares if s > 0)
    assert compute_entropy(shares) == pytest.approx(entropy)
    assert compute_n_effective(entropy) == pytest.approx(math.exp(entropy))
    assert compute_top2_share(shares) == pytest.approx(0.8)
    assert compute_top2_share(np.array([1.0])) == 1.0
    assert (count_dead_experts(shares), count_nearly_dead_experts(shares)) == (1, 1)
    assert count_nearly_dead_experts(shares, threshold=0.2) == 2
    ascending = sorted(shares)
    weighted = sum(i * s for i, s in enumerate(ascending, start=1))
    assert compute_gini_coefficient(shares) == pytest.approx((2 * weighted - 6) / 5)


def test_a_layer_without_events_has_no_shares_and_zeros() -> None:
    events = [RoutingEvent.from_router_output("r", 1, "TRAIN", 0, np.array([3, 1]), 2, 1)]
    assert compute_utilization_shares(events, 0).tolist() == [0.75, 0.25]
    shares, *rest = compute_layer_metrics(events, 1)
    assert isinstance(shares, np.ndarray)
    assert (shares.size, rest) == (0, [0.0] * 3 + [0, 0])


def test_a_recording_loop_of_v2_writes_and_reads_its_files(tmp_path: Path) -> None:
    writer = TelemetryWriter(run_id="r", output_dir=str(tmp_path))
    events = [
        RoutingEvent.from_router_output("r", step, "TRAIN", 0, np.array([3, 1]), 2, 1)
        for step in (1, 2)
    ]
    assert writer.flush_events(events) == 2
    snapshot = SystemSnapshot.from_events(events, 2, 1.0, None, "r", "m", n_layers=1)
    writer.write_snapshot(snapshot)
    config = {"n_layers": 1, "n_experts_per_layer": [2], "top_k": 1, "capacity_factor": None}
    writer.write_manifest(create_run_manifest("r", "m", config, git_commit="abc"))
    folder = tmp_path / "r"
    assert load_events(folder / "routing_events.jsonl") == events
    assert load_snapshots(folder / "snapshots.jsonl") == [snapshot]
    manifest = load_manifest(folder / "run_manifest.json")
    assert manifest == json.loads((folder / "run_manifest.json").read_text(encoding="utf-8"))
    assert (manifest["run_id"], manifest["git_commit"]) == ("r", "abc")
    assert manifest["architecture"] == config
    writer.close()
