"""Shared fixtures: a private cache and quiet, single-threaded, offline runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chronorun.analysis.inspect.sweep import run_folders
from chronorun.analysis.replay.sweep import replay_sweep

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

NANO = (
    "data=synthetic",
    "model=nano",
    "training.max_steps=40",
    "training.eval_interval=10",
    "training.checkpoint_interval=20",
    "training.eval_batches=1",
    "training.final_eval_batches=2",
    "training.batch_size=4",
    "training.threads=1",
    "tracking.log_interval=5",
)

Chronorun = Callable[..., subprocess.CompletedProcess[str]]


def check_replays(place: Path, since_ns: int = 0) -> int:
    """Derive again every decision of the runs below a folder that ended after ``since_ns``.

    Returns how many runs these were.
    """
    ended = [
        folder
        for folder in run_folders(place / "outputs")
        if (summary := folder / "summary.json").is_file() and summary.stat().st_mtime_ns >= since_ns
    ]
    for one in replay_sweep(place, ended).runs:
        assert one.replay is not None, one.why_not
        found = one.replay
        assert found.is_reproduced, (one.path, found.difference, found.changed_logs)
    return len(ended)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def chronorun(tmp_path: Path, cache_dir: Path) -> Chronorun:
    """Run the command line in an empty folder, as a person would.

    Every decision of what it trains is derived again, before a test can change a log.
    """

    def run(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"CHRONORUN_CACHE": str(cache_dir), "WANDB_MODE": "disabled"}
        environment |= dict(kwargs.pop("env", {}))  # type: ignore[call-overload]
        began = time.time_ns()
        done = subprocess.run(
            [sys.executable, "-m", "chronorun", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=240,
            **kwargs,  # type: ignore[call-overload]
        )
        if arguments[0] in ("train", "bench") and done.returncode == 0:
            check_replays(tmp_path, began)
        return done

    return run
