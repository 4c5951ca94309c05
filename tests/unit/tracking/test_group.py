from __future__ import annotations

from pathlib import Path

import pytest
from tracker_fakes import Recorder, run_info, screen

from chronorun.config.run import RunConfig
from chronorun.tracking import TrackerGroup, build_trackers
from chronorun.tracking.logfile import LogFileTracker


def test_every_call_reaches_every_tracker_and_the_last_finishes_first(tmp_path: Path) -> None:
    order: list[str] = []

    class Named(Recorder):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def finish(self, summary: object) -> None:
            order.append(self.name)

    first, last = Named("first"), Named("last")
    group = TrackerGroup([first, last])
    group.start(run_info(tmp_path))
    group.log(1, {"train/loss": 1.0})
    group.alert(1, "a")
    group.notice("n")
    group.table("t", ["c"], [[1]])
    group.finish({})
    assert [call[0] for call in first.calls] == ["start", "log", "alert", "notice", "table"]
    assert first.calls == last.calls
    assert order == ["last", "first"]


@pytest.mark.parametrize("broken", ["start", "log", "alert", "notice", "table", "finish"])
def test_a_tracker_that_raises_is_named_once_and_left_alone(tmp_path: Path, broken: str) -> None:
    bad, good = Recorder(broken), Recorder()
    group = TrackerGroup([bad, good])
    for _ in range(2):
        group.start(run_info(tmp_path))
        group.log(1, {})
        group.alert(1, "a")
        group.notice("n")
        group.table("t", [], [])
    group.finish({})
    told = [call[1] for call in good.calls if call[0] == "notice" and call[1] != "n"]
    assert told == [f"Recorder failed (OSError: no room for {broken}); going on without it"]
    assert [call[0] for call in bad.calls].count(broken) == 1
    assert bad.calls[-1][0] == "finish"


def test_all_broken_trackers_still_raise_nothing(tmp_path: Path) -> None:
    group = TrackerGroup([Recorder("start", "notice", "finish") for _ in range(2)])
    group.start(run_info(tmp_path))
    group.finish({})


def test_build_trackers_adds_wandb_unless_disabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, _ = screen()
    names = {}
    for mode in ("disabled", "offline", ""):
        monkeypatch.setenv("WANDB_MODE", mode)
        trackers = build_trackers(RunConfig(), tmp_path, console).trackers
        names[mode] = [type(tracker).__name__ for tracker in trackers]
    assert names == {
        "disabled": ["PlainProgress", "LogFileTracker"],
        "offline": ["PlainProgress", "LogFileTracker", "WandbTracker"],
        "": ["PlainProgress", "LogFileTracker", "WandbTracker"],
    }


def test_train_log_keeps_evaluations_alerts_and_notices(tmp_path: Path) -> None:
    log = LogFileTracker(tmp_path / "run" / "train.log")
    log.notice("resuming\x1b[2J")
    log.start(run_info(tmp_path, start_step=10))
    log.log(15, {"train/loss": 3.0})
    log.log(20, {"train/loss": 2.0, "val/loss": 2.5})
    log.alert(20, "PRE_COLLAPSE: " + "x" * 200)
    log.finish({"run_id": "fake", "status": "completed"})
    lines = (tmp_path / "run" / "train.log").read_text(encoding="utf-8").splitlines()
    assert [line[20:] for line in lines] == [
        "resuming\\x1b[2J",
        "run fake starts after step 10",
        "step 20/100  loss 2.000  val 2.500",
        "step 20: PRE_COLLAPSE: " + "x" * 200,
        "run fake completed",
    ]
