"""Logs of a resumed run equal those of a run never stopped; what is cut off is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from chronorun.errors import StorageError
from chronorun.training.logs import RunLogs


def write(logs: RunLogs, steps: range) -> None:
    for step in steps:
        logs.metrics.write({"step": step, "train/loss": 1 / (step + 3)})
        logs.timings.write({"step": step})
        if step >= 4:
            logs.scenario_events.write({"step": step, "event": "stress"})


def test_a_resumed_run_writes_the_same_bytes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    logs = RunLogs(whole)
    write(logs, range(10))
    logs.close()
    logs = RunLogs(cut)
    write(logs, range(6))
    saved = json.loads(json.dumps(logs.state()))
    write(logs, range(6, 9))
    logs.close()
    with (cut / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "torn')
    tail = (cut / "metrics.jsonl").read_bytes()[saved["metrics"]["offset"] :]
    logs = RunLogs(cut, saved)
    write(logs, range(6, 10))
    assert (cut / "metrics.jsonl.orphaned-1").read_bytes() == tail
    for name in ("metrics.jsonl", "scenario_events.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    timed = [json.loads(line)["step"] for line in (cut / "timings.jsonl").open()]
    assert timed == [*range(9), *range(6, 10)]
    logs.close()


def test_metrics_and_timings_exist_at_once_and_the_others_when_written(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "timings.jsonl"}
    logs.snapshots.write({"step": 1})
    assert (tmp_path / "snapshots.jsonl").read_bytes() == b'{"step":1}\n'
    logs.close()


def test_the_state_tells_offset_and_hash_and_leaves_timings_out(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    logs.metrics.write({"step": 1})
    content = (tmp_path / "metrics.jsonl").read_bytes()
    state = logs.state()
    assert state["metrics"] == {
        "offset": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert state["snapshots"] is None
    assert "timings" not in state
    logs.close()


def test_a_log_begun_after_the_checkpoint_is_set_aside_whole(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    saved = logs.state()
    logs.snapshots.write({"step": 1})
    logs.close()
    RunLogs(tmp_path, saved).close()
    assert not (tmp_path / "snapshots.jsonl").exists()
    assert (tmp_path / "snapshots.jsonl.orphaned-1").read_bytes() == b'{"step":1}\n'


def test_starting_anew_in_a_folder_without_checkpoint_sets_all_aside(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        logs = RunLogs(tmp_path)
        logs.metrics.write({"step": step})
        logs.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step":3}\n'
    assert (tmp_path / "metrics.jsonl.orphaned-1").read_bytes() == b'{"step":1}\n'
    assert (tmp_path / "metrics.jsonl.orphaned-2").read_bytes() == b'{"step":2}\n'


def test_an_empty_log_leaves_no_orphan(tmp_path: Path) -> None:
    RunLogs(tmp_path).close()
    RunLogs(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "timings.jsonl"}


def test_a_torn_line_of_timings_is_cut_off_before_more_is_added(tmp_path: Path) -> None:
    (tmp_path / "timings.jsonl").write_bytes(b'{"step":1}\n{"st')
    logs = RunLogs(tmp_path)
    logs.timings.write({"step": 2})
    logs.close()
    assert (tmp_path / "timings.jsonl").read_bytes() == b'{"step":1}\n{"step":2}\n'


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_a_log_that_lost_its_beginning_stops_the_resume(tmp_path: Path, damage: str) -> None:
    logs = RunLogs(tmp_path)
    logs.metrics.write({"step": 1})
    saved = logs.state()
    logs.close()
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "shorter" else content.replace(b"1", b"2"))
    with pytest.raises(StorageError) as caught:
        RunLogs(tmp_path, saved)
    assert str(caught.value) == (
        f"log: {path} differs from what the checkpoint recorded in its first {len(content)} "
        f"bytes; resume from another checkpoint or restore the file"
    )


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    write(logs, range(6))
    logs.close()
    assert logs.hashes() == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()
    }
