"""A sweep of six jobs, one of which raises and one of which has its process killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reliability.figures import Figures

JOBS = (
    "bench=quick",
    "data=synthetic",
    "training.max_steps=60",
    "training.eval_interval=5",
    "training.batch_size=4",
    "training.eval_batches=1",
    "training.final_eval_batches=2",
    "optimizer.grad_clip=0",
    "arm=static",
    "seed=0",
    "run_id=six",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
)
RAISES, KILLED = "1e30", "0.003"
RATES = f"optimizer.lr=0.001,{KILLED},{RAISES},0.002,0.004,0.005"


class Killer(threading.Thread):
    """Kills, again and again, whichever process has the metrics of one job open."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(daemon=True)
        self.root, self.part, self.kills = root, name, set[int]()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with suppress(OSError):
                    target = str(link.readlink())
                    inside = target.startswith(str(self.root)) and self.part in target
                    if inside and target.endswith("metrics.jsonl"):
                        os.kill(int(link.parts[2]), signal.SIGKILL)
                        self.kills.add(int(link.parts[2]))


def bench(cwd: Path, cache_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chronorun", "bench", *JOBS, RATES],
        cwd=cwd,
        env=os.environ | {"CHRONORUN_CACHE": str(cache_dir), "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def records(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/job.json")]
    return {job["variant"].partition("=")[2]: job for job in found}


@pytest.mark.exhaustive
def test_of_six_jobs_two_fail_and_are_named(place: Path, cache_dir: Path, count: Figures) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    killer = Killer(place, f"optimizer.lr-{KILLED}")
    killer.start()
    done = bench(place, cache_dir)
    killer.done.set()
    killer.join()
    folder = place / "outputs" / "bench" / "six"
    jobs = records(folder)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    # Beside others, and once more by itself.
    assert len(killer.kills) == 2
    failed = sorted(name for name, job in jobs.items() if job["status"] == "failed")
    held = len(jobs) == 6 and failed == sorted(["1e+30", KILLED])
    assert count("six jobs, one raises, one is killed: four complete", held), jobs
    for name in failed:
        assert (folder / jobs[name]["folder"] / "error.txt").is_file()
        assert jobs[name]["folder"][:40] in done.stdout.replace("\n", "")
    times = {name: (folder / job["folder"] / "job.json").stat() for name, job in jobs.items()}
    again = bench(place, cache_dir)
    assert again.returncode == 1, again.stderr
    jobs = records(folder)
    assert [name for name, job in jobs.items() if job["status"] == "failed"] == ["1e+30"]
    rerun = {
        name
        for name, job in jobs.items()
        if (folder / job["folder"] / "job.json").stat().st_mtime_ns != times[name].st_mtime_ns
    }
    assert count("the same command runs the two that failed, only", rerun == set(failed))
