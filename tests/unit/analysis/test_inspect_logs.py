"""Other logs, ours or v2's, and the reader under all of them."""

from __future__ import annotations

import csv
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from unit.analysis.inspect_here import Inspect, decision, errors, inspect, small_run, write_log

from chronorun.analysis.inspect import follow as inspect_follow
from chronorun.analysis.inspect.sparkline import spark
from chronorun.analysis.reading.records import Decision
from chronorun.analysis.reading.run import Notices, Run, read_records, read_typed
from chronorun.analysis.reading.series import Series

__all__ = ["inspect"]

# v2's files, as its 0.2.0 writes them.
V2: dict[str, dict[str, Any]] = {
    "routing_events": {
        "timestamp": 1.5, "run_id": "v2", "step": 10, "mode": "TRAIN", "layer_id": 0,
        "n_experts": 4, "top_k": 2, "expert_token_counts": [5, 3, 0, 8],
        "active_experts": [0, 1, 3], "router_prob_sums": None, "loss": 2.5, "aux_loss": None,
        "token_count": 16,
    },
    "snapshots": {
        "step": 10, "timestamp": 1.5, "train_loss": 2.5, "val_loss": None, "run_id": "v2",
        "model_name": "nanoMoE",
        "layers": [
            {
                "layer_id": 0, "utilization_shares": [0.3, 0.2, 0.0, 0.5], "entropy": 1.03,
                "dead_expert_count": 1, "n_effective": 2.8, "top2_share": 0.8,
                "nearly_dead_count": 0, "active_experts": [0, 1, 3],
            }
        ],
        "alerts": ["PRE_COLLAPSE: Layer 0: n_effective 2.80 of 4"],
    },
    "control_decisions": {
        "run_id": "v2", "step": 10, "layer_id": 0,
        "observed": {"entropy": 1.03, "n_effective": 2.8, "top2_share": 0.8},
        "computed": {"debt": 0.21, "pressure": 0.04, "abstain": False, "mode_scores": {"a": 1.0}},
        "actuator": {"lens_scale": 0.02, "lens_rank": 8},
        "emergency": {"quota_applied": False, "quota_summary": {}}, "notes": [],
    },
}  # fmt: skip


@pytest.mark.parametrize("log", V2)
def test_a_file_of_v2_is_understood(inspect: Inspect, tmp_path: Path, log: str) -> None:
    write_log(tmp_path / "somewhere.jsonl", [V2[log], V2[log] | {"step": 20}])
    shown = inspect("somewhere.jsonl")
    assert (shown.code, shown.err) == (0, "")
    assert f"log {log}" in shown.out
    assert "10 to 20" in shown.out
    found = json.loads(inspect("somewhere.jsonl", "--json").out)
    assert errors(found) == []
    assert (found["log"], found["lines"], found["run_ids"]) == (log, 2, ["v2"])
    rows = list(csv.DictReader(inspect("somewhere.jsonl", "--csv").out.splitlines()))
    assert {row["step"] for row in rows} == {"10", "20"}
    assert json.loads(inspect("somewhere.jsonl", "--json", "--since", "15").out)["taken"] == 1


def test_a_folder_of_v2_is_a_run(inspect: Inspect, tmp_path: Path) -> None:
    for log, record in V2.items():
        write_log(tmp_path / "v2" / f"{log}.jsonl", [record])
    shown = inspect("v2")
    assert (shown.code, shown.err) == (0, "")
    assert "run v2" in shown.out
    assert "no structural action" in shown.out
    assert "L0     4" in shown.out


@pytest.mark.parametrize("log", ["lifecycle_evaluations", "expert_transitions", "metrics"])
def test_our_other_logs_are_shown(inspect: Inspect, tmp_path: Path, log: str) -> None:
    folder = small_run(tmp_path / "small")
    shown = inspect(str(folder / f"{log}.jsonl"))
    assert shown.code == 0
    assert f"log {log}" in shown.out
    assert inspect(str(folder / f"{log}.jsonl"), "--why", "L0_E1").code == 2


def test_a_log_of_nobodys_is_summed_up(inspect: Inspect, tmp_path: Path) -> None:
    write_log(tmp_path / "x.jsonl", [{"a": i, "b": "text"} for i in range(10)])
    shown = inspect("x.jsonl")
    assert "log unknown" in shown.out
    assert "lines       10" in shown.out


def test_a_long_log_says_that_its_figures_are_thinned(
    inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronorun.analysis.inspect.any_log.MANY_LINES", 100)
    write_log(tmp_path / "x.jsonl", [{"step": i, "a/b": i} for i in range(1003)])
    found = json.loads(inspect("x.jsonl", "--json").out)
    assert found["lines"] == 1003
    assert found["figures"][0] == {
        "name": "a/b", "count": 119, "first": 0, "last": 1002, "low": 0, "high": 1002,
    }  # fmt: skip
    assert found["notices"] == [
        "beyond the first 100 lines, figures are those of every 50th and of the last; --csv has all"
    ]
    assert len(inspect("x.jsonl", "--csv").out.splitlines()) == 1004


def test_empty_logs_are_no_mistake(inspect: Inspect, tmp_path: Path) -> None:
    (tmp_path / "lifecycle_decisions.jsonl").touch()
    (tmp_path / "other.jsonl").touch()
    assert inspect("lifecycle_decisions.jsonl").code == 0
    assert inspect("other.jsonl").code == 0
    assert errors(json.loads(inspect("other.jsonl", "--json").out)) == []


def test_typed_and_plain_reading_agree(tmp_path: Path) -> None:
    records = [decision(seq=i, reason="é" * (i % 7)) for i in range(5000)]
    path = write_log(tmp_path / "d.jsonl", records)
    assert [r for _, r in read_records(path)] == records
    assert [(d.seq, d.reason) for d in read_typed(path, Decision)] == [
        (r["seq"], r["reason"]) for r in records
    ]


def test_a_line_longer_than_a_piece_is_read(tmp_path: Path) -> None:
    records = [decision(seq=i, more="x" * 700_000 * (i % 2)) for i in range(6)]
    path = write_log(tmp_path / "d.jsonl", records)
    assert [d.seq for d in read_typed(path, Decision)] == list(range(6))


def test_fields_of_another_type_keep_their_default_and_are_noted(tmp_path: Path) -> None:
    notices = Notices()
    path = write_log(tmp_path / "d.jsonl", [decision(step="x"), decision(step=3.0)])
    assert [d.step for d in read_typed(path, Decision, notices)] == [None, 3]
    assert notices.lines == [f"{path} line 1: step is not what it should be, passed over"]


def test_a_series_stays_small_and_knows_its_extremes() -> None:
    series = Series()
    for step in range(100_000):
        series.add(step, -1.0 if step == 777 else step)
    assert len(series.points()) <= 1025
    assert (series.first, series.last, series.low, series.high) == (0, 99_999, -1.0, 99_999)
    assert spark(series.columns(8, 0, 99_999)) == "▁▂▃▄▅▆▇█"
    assert spark(series.columns(8, 0, 99_999), ascii_only=True) == "_.-~=+*#"
    assert spark([None, 1.0, 1.0]) == " ▄▄"


def test_following_ends_when_the_run_has_completed(
    inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_follow.follow, "__defaults__", (0.01,))
    path = write_log(tmp_path / "lifecycle_decisions.jsonl", [decision(step=10)])

    def job() -> None:
        time.sleep(0.1)
        line = json.dumps(decision(step=20)) + "\n"
        with path.open("a") as file:
            file.write(line[:40])
            file.flush()
            time.sleep(0.1)
            file.write(line[40:])
        write_log(tmp_path / "metrics.jsonl", [{"step": 30, "val/loss": 2.5}])
        (tmp_path / "summary.json").write_text('{"status": "completed"}')

    thread = threading.Thread(target=job)
    thread.start()
    shown = inspect(".", "--follow")
    thread.join()
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.count("PRUNE L0_E1") == 2
    assert "step 30: validation loss 2.5000" in shown.out
    found = [json.loads(line) for line in inspect(".", "--follow", "--json").out.splitlines()]
    assert [action["step"] for action in found] == [10, 20]
    assert [errors(action, {"$ref": "#/$defs/action"}) for action in found] == [[], []]


def test_ctrl_c_ends_following_with_130(
    inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chronorun.analysis.inspect.follow.time.sleep", interrupted)
    write_log(tmp_path / "lifecycle_decisions.jsonl", [decision()])
    shown = inspect(".", "--follow")
    assert (shown.code, shown.err) == (130, "chronorun: error: interrupted\n")
    assert "PRUNE L0_E1" in shown.out


def test_following_reads_what_a_resume_wrote_anew(tmp_path: Path) -> None:
    path = write_log(tmp_path / "lifecycle_decisions.jsonl", [decision(seq=i) for i in range(3)])
    following = inspect_follow.Following(Run(tmp_path))
    assert len(list(following.news())) == 3
    write_log(path, [decision(seq=9)])
    assert [d.seq for d in following.news() if isinstance(d, Decision)] == [9]
