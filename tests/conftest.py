"""Shared fixtures: a private cache and quiet, single-threaded, offline runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def chronorun(tmp_path: Path, cache_dir: Path) -> Chronorun:
    """Run the command line in an empty folder, as a person would."""

    def run(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"CHRONORUN_CACHE": str(cache_dir), "WANDB_MODE": "disabled"}
        environment |= dict(kwargs.pop("env", {}))  # type: ignore[call-overload]
        return subprocess.run(
            [sys.executable, "-m", "chronorun", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=240,
            **kwargs,  # type: ignore[call-overload]
        )

    return run
