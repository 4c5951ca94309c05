from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from chronorun.telemetry import (
    AlertHistory,
    LayerSnapshot,
    RoutingEvent,
    SystemSnapshot,
    TelemetryWriter,
    check_immediate_alerts,
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


def event(step: int, counts: list[int], layer: int = 0) -> RoutingEvent:
    return RoutingEvent.from_router_output(
        "r", step, "TRAIN", layer, np.array(counts), len(counts), 2, timestamp=1.0
    )


def test_metrics_by_hand() -> None:
    shares = compute_utilization_shares([event(1, [2, 0, 1, 1]), event(2, [2, 0, 1, 1])], 0)
    assert shares.tolist() == [0.5, 0.0, 0.25, 0.25]
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert compute_entropy(shares) == pytest.approx(entropy, abs=1e-12)
    assert compute_n_effective(entropy) == pytest.approx(2 * math.sqrt(2), abs=1e-12)
    assert compute_top2_share(shares) == 0.75
    assert compute_top2_share(np.array([1.0])) == 1.0
    assert count_dead_experts(shares) == 1
    assert count_nearly_dead_experts(np.array([0.0, 0.009, 0.991])) == 1
    # Sorted 0, 1/4, 1/4, 1/2: (2 * (2/4 + 3/4 + 4/2) - 5) / 4
    assert compute_gini_coefficient(shares) == pytest.approx(0.375, abs=1e-12)
    assert compute_gini_coefficient(np.full(4, 0.25)) == pytest.approx(0.0, abs=1e-12)


def test_an_absent_layer_gives_zeros() -> None:
    shares, *rest = compute_layer_metrics([event(1, [1, 1])], 7)
    assert (len(shares), rest) == (0, [0.0, 0.0, 0.0, 0, 0])


def test_nothing_dispatched_gives_zero_shares() -> None:
    assert compute_utilization_shares([event(1, [0, 0])], 0).tolist() == [0.0, 0.0]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=64))
def test_metrics_keep_their_bounds(counts: list[int]) -> None:
    shares, entropy, n_effective, top2, dead, nearly = compute_layer_metrics([event(1, counts)], 0)
    n = len(counts)
    assert 0 <= entropy <= math.log(n) + 1e-9
    assert 1 <= n_effective <= n + 1e-6
    assert 0 <= top2 <= 1 + 1e-12
    assert dead == counts.count(0)
    assert dead + nearly <= n
    assert -1e-12 <= compute_gini_coefficient(shares) <= 1


def layer(shares: list[float], layer_id: int = 2) -> LayerSnapshot:
    return LayerSnapshot.from_shares(layer_id, np.array(shares))


HEALTHY, SKEWED, COLLAPSED = [0.25] * 4, [0.5, 0.3, 0.1, 0.1], [0.5, 0.4, 0.1, 0.0]


def test_alerts_need_persistence_and_fall_back_to_zero() -> None:
    history = AlertHistory()
    seen = [len(history.update([layer(s)])) for s in [SKEWED] * 3 + [HEALTHY] + [SKEWED] * 2]
    assert seen == [0, 0, 1, 0, 0, 0]
    alerts = [history.update([layer(COLLAPSED)]) for _ in range(5)]
    assert alerts[3][0].startswith("PRE_COLLAPSE: Layer 2: ")
    assert [a.split(":")[0] for a in alerts[4]] == ["PRE_COLLAPSE", "COLLAPSE_CONFIRMED"]


def test_a_window_without_dispatched_tokens_neither_counts_nor_clears() -> None:
    history, nothing = AlertHistory(), [0.0] * 4
    for _ in range(6):
        assert history.update([layer(nothing)]) == []
    assert history.state_dict() == {}
    shares = [SKEWED, nothing, SKEWED, nothing, nothing, SKEWED, nothing]
    assert [len(history.update([layer(s)])) for s in shares] == [0, 0, 0, 0, 0, 1, 0]
    assert history.state_dict() == {"2": {"pre_collapse_count": 3, "collapse_count": 0}}
    assert check_immediate_alerts([layer(nothing), layer([0.0])]) == []


def test_alert_history_survives_a_checkpoint() -> None:
    whole, half = AlertHistory(), AlertHistory()
    for history in (whole, half):
        for _ in range(2):
            history.update([layer(SKEWED)])
    resumed = AlertHistory()
    resumed.load_state_dict(json.loads(json.dumps(half.state_dict())))
    assert resumed.update([layer(SKEWED)]) == whole.update([layer(SKEWED)]) != []


def test_immediate_alerts_do_not_wait() -> None:
    lines = check_immediate_alerts([layer(HEALTHY, 0), layer(COLLAPSED, 1)])
    assert [line.split(":")[0] for line in lines] == ["WARNING", "ALERT"]
    assert all("Layer 1" in line for line in lines)


def test_files_round_trip_and_stay_readable_for_v2(tmp_path: Path) -> None:
    events = [event(1, [3, 1], layer=i) for i in range(2)]
    shot = SystemSnapshot.from_events(events, 1, 2.5, None, "r", "m", 2, AlertHistory())
    with TelemetryWriter("r", tmp_path) as writer:
        writer.write_event(events[0])
        pending = [events[1]]
        assert writer.flush_events(pending) == 1
        assert pending == [events[1]]
        writer.write_snapshot(shot)
        writer.write_manifest(create_run_manifest("r", "m", {"seed": 3, "extra": 1}))
    assert load_events(tmp_path / "r" / "routing_events.jsonl") == events
    assert load_snapshots(tmp_path / "r" / "snapshots.jsonl") == [shot]
    manifest = load_manifest(tmp_path / "r" / "run_manifest.json")
    assert (manifest["seed"], manifest["extra"], manifest["run_id"]) == (3, 1, "r")
    assert "torch" in manifest["versions"]
    line = json.loads((tmp_path / "r" / "routing_events.jsonl").read_text().splitlines()[0])
    assert line["token_count"] == 4
    v2_only = {k: line[k] for k in ("timestamp", "run_id", "step", "mode", "layer_id")} | {
        "n_experts": 2,
        "top_k": 2,
        "expert_token_counts": [3, 1],
        "something_new": True,
    }
    assert RoutingEvent.from_dict(v2_only).token_count == 4
