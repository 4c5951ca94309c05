"""Shared fixtures: a private cache, quiet and offline runs on one thread, runs trained once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from shared import Shared, common_root
from warm.commands import Commands

from chronorun.analysis.inspect.sweep import run_folders
from chronorun.analysis.replay.sweep import replay_sweep

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before anything imports torch: workers that compute on all cores hinder each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ("levels", "reliability.kept", "cli_in_process")

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

TIMEOUT_S = 240.0


class Chronorun(Protocol):
    """Runs a command line and returns how it ended."""

    def __call__(
        self, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


RunCommand = Callable[..., subprocess.CompletedProcess[str]]
"""``run(folder, *arguments, env=None)``: runs a command line in a folder."""
RunOf = Callable[..., Path]
"""``run_of(name, *overrides)``: returns the folder of a run that was trained with these."""


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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return Shared(common_root(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def cache_dir(shared: Shared) -> Path:
    return shared.once("cache", lambda folder: None)


@pytest.fixture(scope="session")
def run_command(cache_dir: Path) -> Iterator[Commands]:
    """Run command lines in forks of a process that has imported what they need."""
    commands = Commands(cache_dir)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def run_in(run_command: Commands, tmp_path_factory: pytest.TempPathFactory) -> RunCommand:
    """Run a command line in a folder, and derive again every decision of what it trains."""
    printed = tmp_path_factory.mktemp("printed")

    def run(
        folder: Path, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        began = time.time_ns()
        done = run_command(folder, *arguments, env=env, limit_s=TIMEOUT_S, printed=printed)
        assert not done.hung, done.told
        if arguments[0] in ("train", "bench") and done.code == 0:
            check_replays(folder, began)
        return subprocess.CompletedProcess(arguments, done.code, done.out, done.err)

    return run


@pytest.fixture
def chronorun(tmp_path: Path, run_in: RunCommand) -> Chronorun:
    """Run the command line in an empty folder, as a person would.

    Every decision of what it trains is derived again, before a test can change a log.
    """
    return lambda *arguments, env=None: run_in(tmp_path, *arguments, env=env)


@pytest.fixture
def chronorun_process(tmp_path: Path, cache_dir: Path) -> Chronorun:
    """As ``chronorun``, in a new process, for what a process has only once: its environment."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        began = time.time_ns()
        done = subprocess.run(
            [sys.executable, "-m", "chronorun", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=process_environment(cache_dir) | (env or {}),
            timeout=TIMEOUT_S,
            check=False,
        )
        if arguments[0] in ("train", "bench") and done.returncode == 0:
            check_replays(tmp_path, began)
        return done

    return run


def process_environment(cache_dir: Path) -> dict[str, str]:
    """Return the environment of a ``chronorun`` process."""
    return os.environ | {"CHRONORUN_CACHE": str(cache_dir), "WANDB_MODE": "disabled"}


@pytest.fixture(scope="session")
def run_of(shared: Shared, run_in: RunCommand) -> RunOf:
    """Train a run once for all tests that only read it."""

    def trained(name: str, *overrides: str) -> Path:
        def train(folder: Path) -> None:
            done = run_in(folder, "train", *overrides, f"run_id={name}")
            assert done.returncode == 0, done.stderr
            (folder / "overrides").write_text("\n".join(overrides), encoding="utf-8")
            (folder / "printed").write_text(done.stdout + done.stderr, encoding="utf-8")

        home = shared.once(f"run-{name}", train)
        assert (home / "overrides").read_text(encoding="utf-8") == "\n".join(overrides)
        return home / "outputs" / name

    return trained
