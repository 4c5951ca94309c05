"""A sweep goes past killed workers, and never round in circles."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chronorun.bench.evidence.results import JobResult, Status, write_result
from chronorun.bench.run import waves as bench_waves
from chronorun.bench.run.job import BEGUN, SweepStopped, _gate_of
from chronorun.bench.run.plan import Sweep
from chronorun.bench.run.waves import Waves
from chronorun.config import hydra_bridge
from chronorun.config.bench import OnError

SEEDS = ["0", "1", "2", "3"]


class Launcher:
    """Stands in for Hydra's: a pool of two workers, in which some jobs kill theirs, or fail."""

    def __init__(self, folder: Path, **ends: str) -> None:
        self.folder, self.ends, self.started = folder, ends, list[list[str]]()

    def __call__(self, *_: Any) -> None:
        done = {path.parent.name for path in self.folder.glob("*/job.json")}
        kept = {n for n in done if json.loads(self._file(n).read_text())["status"] == "completed"}
        gate = _gate_of(self.folder)
        names = [n for n in map(self._name, SEEDS) if n not in kept and gate.lets_through(n)]
        self.started.append(names)
        for pair in (names[i : i + 2] for i in range(0, len(names), 2)):
            for name in pair:
                (self.folder / name).mkdir(exist_ok=True)
                record = msgspec.json.encode(self._result(name, "failed"))
                (self.folder / name / BEGUN).write_bytes(record)
            if any(self.ends.get(name) == "killed" for name in pair):
                raise BrokenProcessPool("a worker")
            if any(self.ends.get(name) == "launcher" for name in pair):
                raise PermissionError("no folder")
            for name in pair:
                status: Status = "failed" if self.ends.get(name) == "failed" else "completed"
                write_result(self._result(name, status), self.folder / name)
                (self.folder / name / BEGUN).unlink()

    def _name(self, seed: str) -> str:
        return f"seed{seed}"

    def _file(self, name: str) -> Path:
        return self.folder / name / "job.json"

    def _result(self, name: str, status: Status) -> JobResult:
        return JobResult(0, name, "static", "none", "", int(name[4:]), status)

    def statuses(self) -> dict[str, str]:
        files = sorted(self.folder.glob("*/job.json"))
        return {path.parent.name: json.loads(path.read_text())["status"] for path in files}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def running(on_error: OnError = OnError.go_on, drawn: bool = False, **ends: str) -> Any:
        launcher = Launcher(tmp_path, **ends)
        monkeypatch.setattr(hydra_bridge, "run", launcher)
        monkeypatch.setattr(bench_waves, "warn", lambda message: None)
        sweep = Sweep([], ["none"], {}, SEEDS, ["static"], drawn)
        call: Any = SimpleNamespace(arguments=SimpleNamespace(multirun=False), overrides=[])
        files: Any = None
        return launcher, Waves(call, files, sweep, tmp_path, on_error).run()

    return running


def test_a_killed_job_is_named_and_all_others_complete(run: Any, tmp_path: Path) -> None:
    launcher, end = run(seed1="killed", seed2="failed")
    assert end is None
    assert launcher.statuses() == {
        "seed0": "completed", "seed1": "failed", "seed2": "failed", "seed3": "completed"
    }  # fmt: skip
    # All; those cut off, alone; the rest, without what failed.
    assert launcher.started == [
        ["seed0", "seed1", "seed2", "seed3"], ["seed0"], ["seed1"], ["seed2", "seed3"]
    ]  # fmt: skip
    assert "BrokenProcessPool" in (tmp_path / "seed1" / "error.txt").read_text()
    assert not list(tmp_path.glob(".gate*"))
    assert not list(tmp_path.glob(f"*/{BEGUN}"))


def test_the_same_command_tries_again_what_failed_only(run: Any) -> None:
    run(seed1="killed", seed2="failed")
    launcher, end = run()
    assert end is None
    assert launcher.started == [["seed1", "seed2"]]
    assert set(launcher.statuses().values()) == {"completed"}


def test_what_the_launcher_itself_says_blames_no_job(run: Any, tmp_path: Path) -> None:
    launcher, end = run(seed1="launcher")
    assert isinstance(end, PermissionError)
    assert launcher.statuses() == {}
    assert len(launcher.started) == 1
    assert "PermissionError" in (tmp_path / "error.txt").read_text()


def test_a_sweep_that_draws_its_jobs_is_not_launched_again(run: Any) -> None:
    launcher, end = run(drawn=True, seed1="killed")
    assert isinstance(end, BrokenProcessPool)
    assert len(launcher.started) == 1


def test_on_error_stop_holds_for_a_killed_job(run: Any) -> None:
    launcher, end = run(on_error=OnError.stop, seed0="killed")
    assert isinstance(end, SweepStopped)
    assert launcher.statuses() == {"seed0": "failed"}
