"""``chronorun bench`` as a person uses it: a sweep, killed and gone on with, and its result."""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import leet
import pytest
from conftest import Chronorun, RunCommand, check_replays, process_environment

from chronorun.core.lock import exclusive

SMALL = (
    "bench=quick",
    "data=synthetic",
    "training.max_steps=40",
    "training.eval_interval=5",
    "training.batch_size=4",
    "training.eval_batches=1",
    "training.final_eval_batches=2",
)
# A lifecycle that finds something to do within so few steps.
BUSY = (
    "lifecycle=aggressive",
    "lifecycle.lifecycle_warmup_steps=10",
    "lifecycle.spawn_entropy_threshold=0.3",
    "lifecycle.spawn_entropy_drop=1",
)


def jobs(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/job.json")]
    return {(job["arm"], job["seed"]): job for job in found}


def without_wall(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "verdicts.json").read_text())
    del record["wall"]
    return record


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, run_in: RunCommand) -> Path:
    """Run all arms of two seeds; returns the sweep's folder."""
    place = tmp_path_factory.mktemp("bench")
    arms = "arm=static,loss_free,scheduled,lifecycle,static_mean,yoked,sham"
    done = bench(run_in, place, *SMALL, *BUSY, arms, "seed=0,1", "run_id=all")
    assert done.returncode == 0, done.stderr
    return place / "outputs" / "bench" / "all"


def bench(run_in: RunCommand, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep in the process that imports have warmed."""
    done = run_in(place, "bench", "--multirun", *arguments, env={"COLUMNS": "80"})
    if done.returncode:
        check_replays(place)
    return done


def bench_process(
    place: Path, cache: Path, *arguments: str, mode: str = "disabled"
) -> subprocess.CompletedProcess[str]:
    """Run a sweep in a process of its own, which starts further ones."""
    began = time.time_ns()
    done = subprocess.run(
        [sys.executable, "-m", "chronorun", "bench", "--multirun", *arguments],
        capture_output=True,
        text=True,
        cwd=place,
        env=process_environment(cache) | {"WANDB_MODE": mode, "COLUMNS": "80"},
        check=False,
        timeout=400,
    )
    check_replays(place, began)
    return done


def edits_of(folder: Path) -> list[tuple[int, str]]:
    lines = (folder / "lifecycle_decisions.jsonl").read_text().splitlines()
    return [
        (d["step"], d["action"]) for d in sorted(map(json.loads, lines), key=lambda d: d["seq"])
    ]


def test_every_job_leaves_a_record_and_followers_come_last(sweep: Path) -> None:
    found = jobs(sweep)
    assert len(found) == 14
    assert {job["status"] for job in found.values()} == {"completed"}
    rows = list(csv.DictReader((sweep / "results.csv").open()))
    assert [int(row["number"]) for row in rows] == list(range(14))
    followers = {"static_mean", "yoked", "sham"}
    assert [row["arm"] in followers for row in rows] == [False] * 8 + [True] * 6


def test_yoked_makes_the_lifecycles_edits_on_targets_of_its_own(sweep: Path) -> None:
    found = jobs(sweep)
    for seed in (0, 1):
        source = edits_of(sweep / found["lifecycle", seed]["folder"])
        assert source
        yoked = edits_of(sweep / found["yoked", seed]["folder"])
        # What nobody is eligible for is left out, and nothing is added.
        assert set(yoked) <= set(source)
        assert len(yoked) >= len(source) - 2
    assert found["yoked", 0]["metrics"]["val_loss"] != found["lifecycle", 0]["metrics"]["val_loss"]


def test_a_sham_changes_no_structure_and_yet_the_loss(sweep: Path) -> None:
    found = jobs(sweep)
    sham = found["sham", 0]["metrics"]
    assert sham["edits"] == 0.0
    assert sham["final_population"] == 8.0
    assert sham["val_loss"] != found["static", 0]["metrics"]["val_loss"]


def test_static_mean_is_as_large_as_the_lifecycle_was_on_average(sweep: Path) -> None:
    found = jobs(sweep)
    for seed in (0, 1):
        mean = found["lifecycle", seed]["metrics"]["mean_population"]
        assert found["static_mean", seed]["metrics"]["final_population"] == round(mean)


def test_doubling_doubles(sweep: Path) -> None:
    assert jobs(sweep)["scheduled", 0]["metrics"]["final_population"] == 16.0


def test_arms_of_a_seed_start_from_the_same_loss(sweep: Path) -> None:
    found = jobs(sweep)
    first = {
        arm: json.loads((sweep / found[arm, 0]["folder"] / "metrics.jsonl").open().readline())
        for arm in ("static", "lifecycle", "yoked", "scheduled")
    }
    assert len({record["train/loss"] for record in first.values()}) == 1


def test_the_outputs_hold_what_the_jobs_found(sweep: Path) -> None:
    rows = list(csv.DictReader((sweep / "results.csv").open()))
    assert len(rows) == 14
    assert float(rows[0]["val_loss"]) == jobs(sweep)["static", 0]["metrics"]["val_loss"]
    (cell,) = without_wall(sweep)["cells"]
    assert (cell["verdict"], cell["reason"]) == ("INCONCLUSIVE", "needs 6 seeds")
    for name in ("report.md", "report.html"):
        assert "needs 6 seeds" in (sweep / name).read_text()


def test_the_same_command_trains_nothing_twice(sweep: Path, run_in: RunCommand) -> None:
    before = {p: p.stat().st_mtime_ns for p in sweep.glob("*/metrics.jsonl")}
    record = without_wall(sweep)
    arms = "arm=static,loss_free,scheduled,lifecycle,static_mean,yoked,sham"
    done = bench(run_in, sweep.parents[2], *SMALL, *BUSY, arms, "seed=0,1", "run_id=all")
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in sweep.glob("*/metrics.jsonl")} == before
    assert without_wall(sweep) == record
    assert "14 jobs, 14 done" in done.stderr


def test_another_comparison_in_the_same_folder_is_refused(sweep: Path, run_in: RunCommand) -> None:
    done = bench(run_in, sweep.parents[2], *SMALL, "seed=0,1", "run_id=all")
    assert done.returncode == 2
    assert done.stderr.startswith(f"chronorun: error: bench: {Path('outputs/bench/all')} holds")
    assert "lifecycle=aggressive" in done.stderr


@pytest.mark.whole
def test_options_that_were_edited_make_another_comparison(
    tmp_path: Path, run_in: RunCommand
) -> None:
    (tmp_path / "own" / "arm").mkdir(parents=True)
    option = tmp_path / "own" / "arm" / "warm.yaml"
    words = ("arm=warm", "seed=0", "--config-dir", "own", "training.max_steps=4")
    named = []
    for lr in ("1e-3", "2e-3"):
        option.write_text(f"# @package _global_\noptimizer:\n  lr: {lr}\n")
        done = bench(run_in, tmp_path, *SMALL[:3], *words)
        assert done.returncode == 0, done.stderr
        named.append({path.name for path in (tmp_path / "outputs" / "bench").iterdir()})
    assert (len(named[0]), len(named[1])) == (1, 2)
    newest = (named[1] - named[0]).pop()
    report = (tmp_path / "outputs" / "bench" / newest / "report.md").read_text()
    assert "--config-dir own" in report


@pytest.mark.whole
def test_further_seeds_keep_the_finished_ones(tmp_path: Path, run_in: RunCommand) -> None:
    short = (*SMALL, "training.max_steps=4", "run_id=more")
    assert bench(run_in, tmp_path, *short, "arm=static", "seed=0,0").returncode == 0
    folder = tmp_path / "outputs" / "bench" / "more"
    (first,) = folder.glob("*/metrics.jsonl")
    written = first.stat().st_mtime_ns
    more = ("++seed=0,1", "bench.margin=0.01", "bench.on_error=stop")
    done = bench(run_in, tmp_path, *short, "arm=static,lifecycle", *more)
    assert done.returncode == 0, done.stderr
    assert "4 jobs, 1 done" in done.stderr
    assert len(list(folder.glob("*/job.json"))) == 4
    assert first.stat().st_mtime_ns == written
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
    fewer = bench(run_in, tmp_path, *short, "arm=static", "seed=1")
    assert "All 1 jobs" in fewer.stdout or "1 job" in fewer.stdout, fewer.stdout
    assert len(list(csv.DictReader((folder / "results.csv").open()))) == 1


@pytest.mark.whole
def test_a_damaged_record_is_made_anew(tmp_path: Path, run_in: RunCommand) -> None:
    words = (*SMALL, "training.max_steps=4", "run_id=torn", "seed=0")
    assert bench(run_in, tmp_path, *words).returncode == 0
    folder = tmp_path / "outputs" / "bench" / "torn"
    record = next(folder.glob("*static*/job.json"))
    before = json.loads(record.read_text())
    record.write_text("{")
    done = bench(run_in, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(record.read_text())["metrics"] == before["metrics"]


def test_a_sweep_runs_once_at_a_time(tmp_path: Path, run_in: RunCommand) -> None:
    folder = tmp_path / "outputs" / "bench" / "held"
    folder.mkdir(parents=True)
    with exclusive(folder, "test"):
        done = bench(run_in, tmp_path, *SMALL, "run_id=held", "seed=0")
    assert done.returncode == 2
    assert f"is in use by process {os.getpid()}, expected it free" in done.stderr


@pytest.mark.whole
def test_workers_share_a_sweep_and_stop_it(tmp_path: Path, cache_dir: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = (*SMALL, "training.max_steps=4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    arms = "arm=static,lifecycle,yoked"
    done = bench_process(tmp_path, cache_dir, *words, arms, "seed=0,1", "run_id=shared")
    assert done.returncode == 0, done.stderr
    assert "6 jobs, 0 done" in done.stderr
    worse = ("optimizer.lr=1e30", "optimizer.grad_clip=0", "bench.on_error=stop")
    seeds = "seed=" + ",".join(map(str, range(12)))
    done = bench_process(tmp_path, cache_dir, *words, *worse, "arm=static", seeds, "run_id=stopped")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    ended = list((tmp_path / "outputs" / "bench" / "stopped").glob("*/job.json"))
    assert 1 <= len(ended) < 12


@pytest.mark.whole
def test_wandb_files_hold_every_jobs_history_and_the_table(tmp_path: Path, cache_dir: Path) -> None:
    words = (
        *SMALL,
        "training.max_steps=60",
        "seed=0",
        "run_id=logged",
        "tracking.wandb.mode=offline",
    )
    done = bench_process(tmp_path, cache_dir, *words, mode="offline")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "bench" / "logged"
    files = sorted(folder.rglob("*.wandb"))
    runs = [_wandb_run(path) for path in files]
    assert sorted(run["job_type"] for run in runs) == ["lifecycle", "static", "summary"]
    assert {run["group"] for run in runs} == {"logged"}
    for run in runs:
        if run["job_type"] == "summary":
            assert {"bench/results", "bench/verdicts"} <= run["keys"]
        else:
            assert "train/loss" in run["keys"]
            assert run["history"] >= 2
    for path in files:
        record = leet.summary(path.parent)
        assert record["state"] == "finished"
        if record["run_id"] == "logged-summary":
            assert {"bench/results", "bench/verdicts"} <= record["summary"].keys()
        else:
            assert record["summary"]["train/loss"] > 0.0
            assert leet.inspect(path.parent, "--json").count('"type":"history"') >= 2


def _wandb_run(path: Path) -> dict[str, Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"keys": set(), "history": 0}
    for data in _leveldb_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"group": record.run.run_group, "job_type": record.run.job_type}
        elif kind == "history":
            found["history"] += 1
            found["keys"] |= {i.key or i.nested_key[0] for i in record.history.item}
    return found


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format, which W&B's files have behind 7 bytes."""
    block, place, parts = 32768, 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield parts
            parts = b""


@pytest.mark.whole
def test_a_killed_sweep_goes_on_to_the_same_verdicts(
    tmp_path: Path, run_in: RunCommand, cache_dir: Path
) -> None:
    command = [*SMALL, *BUSY, "arm=static,lifecycle,yoked", "seed=0,1"]
    whole = bench(run_in, tmp_path, *command, "run_id=whole")
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "chronorun", "bench", *command, "run_id=killed"],
        cwd=tmp_path,
        env=process_environment(cache_dir),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = tmp_path / "outputs" / "bench" / "killed"
    deadline = time.monotonic() + 120
    # In the middle of the third job.
    while len(list(folder.glob("*/metrics.jsonl"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(list(folder.glob("*/job.json"))) < 6
    again = bench(run_in, tmp_path, *command, "run_id=killed")
    assert again.returncode == 0, again.stderr
    ours, theirs = without_wall(folder), without_wall(folder.with_name("whole"))
    assert (ours.pop("sweep_id"), theirs.pop("sweep_id")) == ("killed", "whole")
    assert ours == theirs


def test_a_failing_job_is_named_and_stops_no_other(chronorun: Chronorun, tmp_path: Path) -> None:
    worse = ("optimizer.lr=1e-3,1e30", "optimizer.grad_clip=0")
    done = chronorun(
        "bench",
        *SMALL,
        "training.max_steps=10",
        *worse,
        "seed=0",
        "run_id=bad",
        env={"COLUMNS": "80"},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    results = [
        json.loads(path.read_text())
        for path in (tmp_path / "outputs" / "bench" / "bad").glob("*/job.json")
    ]
    failed = [job for job in results if job["status"] == "failed"]
    assert [job["variant"] for job in failed] == ["optimizer.lr=1e+30"] * 2
    for job in failed:
        folder = tmp_path / "outputs" / "bench" / "bad" / job["folder"]
        assert "NonFiniteError" in (folder / "error.txt").read_text()
        assert job["folder"][:40] in done.stdout.replace("\n", "")


def test_on_error_stop_stops(chronorun: Chronorun, tmp_path: Path) -> None:
    worse = ("optimizer.lr=1e30", "optimizer.grad_clip=0", "bench.on_error=stop")
    done = chronorun("bench", *SMALL, "training.max_steps=10", *worse, "seed=0,1", "run_id=stop")
    assert done.returncode == 1
    assert len(list((tmp_path / "outputs" / "bench" / "stop").glob("*/job.json"))) == 1


@pytest.mark.whole
def test_where_no_edit_was_made_followers_are_not_trained(
    chronorun: Chronorun, tmp_path: Path
) -> None:
    words = (*SMALL, "training.max_steps=10", "arm=static,lifecycle,yoked", "seed=0", "run_id=none")
    done = chronorun("bench", *words)
    assert done.returncode == 0, done.stderr
    found = jobs(tmp_path / "outputs" / "bench" / "none")
    assert found["yoked", 0]["status"] == "no_edit"
    assert found["yoked", 0]["metrics"] == found["lifecycle", 0]["metrics"]
