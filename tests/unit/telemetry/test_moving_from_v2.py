"""A training loop and log files made for v2 keep working."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chronorun.config.observing import TelemetryConfig
from chronorun.model import Routing
from chronorun.telemetry import (
    LayerSnapshot,
    RoutingEvent,
    RoutingRecorder,
    SystemSnapshot,
    WindowStats,
    check_immediate_alerts,
    create_run_manifest,
    get_git_commit,
    load_snapshots,
)


def snapshot(counts: list[int], history: dict[int, dict[str, int]]) -> SystemSnapshot:
    events = [RoutingEvent.from_router_output("r", 1, "TRAIN", 2, np.array(counts), len(counts), 2)]
    return SystemSnapshot.from_events(events, 1, 1.0, None, "r", "m", 4, history, timestamp=5.0)


def test_a_plain_dict_keeps_the_alert_history() -> None:
    history: dict[int, dict[str, int]] = {}
    alerts = [snapshot([50, 40, 10, 0], history).alerts for _ in range(5)]
    figures = "Layer 2: n_effective 2.57 of 4, top-2 share 0.90, 1 dead"
    assert alerts[1] == []
    assert alerts[2] == [f"PRE_COLLAPSE: {figures}, for 3 snapshots"]
    assert alerts[4] == [
        f"PRE_COLLAPSE: {figures}, for 5 snapshots",
        f"COLLAPSE_CONFIRMED: {figures}, for 5 snapshots",
    ]
    assert history == {2: {"pre_collapse_count": 5, "collapse_count": 5}}
    assert snapshot([1, 1, 1, 1], history).alerts == []
    assert history == {2: {"pre_collapse_count": 0, "collapse_count": 0}}


def window(counts: list[int]) -> WindowStats:
    recorder = RoutingRecorder([len(counts)], 1, 1, "cpu", TelemetryConfig(), 10)
    index_KT = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[None]
    probs_TE = torch.full((index_KT.numel(), len(counts)), 1 / len(counts))
    recorder.begin_step(torch.zeros_like(index_KT))
    recorder.observe(
        0, Routing(probs_TE, probs_TE, probs_TE, index_KT, index_KT, None, torch.tensor(counts))
    )
    recorder.end_step(1, None)
    return recorder.flush()


def test_a_plain_dict_keeps_the_alert_history_of_windows() -> None:
    history: dict[int, dict[str, int]] = {}
    alerts = [
        SystemSnapshot.from_window(
            window(counts), 1, 1.0, None, "r", "m", history, timestamp=5.0
        ).alerts
        for counts in ([50, 40, 10, 0], [0, 0, 0, 0], [50, 40, 10, 0], [50, 40, 10, 0])
    ]
    figures = "Layer 0: n_effective 2.57 of 4, top-2 share 0.90, 1 dead"
    # The window in which nothing was routed says nothing.
    assert alerts == [[], [], [], [f"PRE_COLLAPSE: {figures}, for 3 snapshots"]]
    assert history == {0: {"pre_collapse_count": 3, "collapse_count": 3}}


def test_without_a_history_there_are_no_alerts() -> None:
    shots = [
        SystemSnapshot.from_window(window([9, 1, 0, 0]), 1, 1.0, None, "r", "m") for _ in range(5)
    ]
    assert [shot.alerts for shot in shots] == [[]] * 5


def test_an_event_without_a_loss_has_none() -> None:
    event = RoutingEvent.from_router_output("r", 1, "TRAIN", 0, [1, 2], 2, 1)
    assert (event.loss, event.to_dict()["loss"]) == (None, None)
    record = event.to_dict()
    del record["loss"]
    assert RoutingEvent.from_dict(record).loss is None
    assert RoutingEvent.from_dict(record | {"loss": 0.0}).loss == 0.0


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        # 0.75 and 0.85 themselves, and n_effective of exactly 0.6 n, are still allowed.
        ([0.5, 0.25, 0.25, 0.0], []),
        ([0.5, 0.35, 0.15, 0.0], ["WARNING"]),
        ([0.5, 0.375, 0.125, 0.0], ["WARNING", "ALERT"]),
        ([0.4, 0.4, 0.1, 0.1], ["WARNING"]),
        ([0.2] * 5 + [0.0] * 3, []),
        ([0.25] * 4 + [0.0] * 4, ["WARNING"]),
    ],
)
def test_thresholds(shares: list[float], expected: list[str]) -> None:
    lines = check_immediate_alerts([LayerSnapshot.from_shares(0, np.array(shares))])
    assert [line.split(":")[0] for line in lines] == expected


def test_a_layer_without_events_is_left_out() -> None:
    assert [layer.layer_id for layer in snapshot([1, 1], {}).layers] == [2]


def test_counts_may_be_a_tensor_on_the_device() -> None:
    counts = torch.tensor([2.0, 0.0, 3.0], requires_grad=True)
    event = RoutingEvent.from_router_output("r", 1, "TRAIN", 0, counts, 3, 1)
    assert event.expert_token_counts == [2, 0, 3]
    assert (event.active_experts, event.token_count) == ([0, 2], 5)


def test_a_v2_snapshot_is_read_and_ours_begins_with_its_fields(tmp_path: Path) -> None:
    record = {
        "step": 1,
        "timestamp": 2.0,
        "train_loss": 3.0,
        "val_loss": None,
        "layers": [
            {
                "layer_id": 0,
                "utilization_shares": [0.5, 0.5],
                "entropy": 0.69,
                "dead_expert_count": 0,
                "n_effective": 2.0,
                "top2_share": 1.0,
                "nearly_dead_count": 0,
                "active_experts": [0, 1],
            }
        ],
        "alerts": [],
        "run_id": "r",
        "model_name": "m",
    }
    (tmp_path / "snapshots.jsonl").write_text(json.dumps(record) + "\n")
    (read,) = load_snapshots(tmp_path / "snapshots.jsonl")
    assert read.layers[0].num_experts == 2
    ours = read.to_dict()
    assert list(ours)[: len(record)] == list(record)
    layer, v2_layer = ours["layers"][0], record["layers"][0]
    assert dict(list(layer.items())[: len(v2_layer)]) == v2_layer
    assert SystemSnapshot.from_dict(json.loads(json.dumps(ours))) == read


def test_a_flat_config_fills_the_architecture() -> None:
    flat = {"n_layers": 2, "n_experts_per_layer": [4, 4], "top_k": 1, "capacity_factor": None}
    manifest = create_run_manifest("r", "m", {"dataset": "d", **flat}, git_commit="abc")
    assert manifest["architecture"] == flat
    assert (manifest["dataset"], manifest["git_commit"]) == ("d", "abc")


def test_no_commit_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert get_git_commit(tmp_path) is None
