"""The command line run in this process, with a stand-in for the training itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import chronorun.tracking
import chronorun.training
from chronorun.cli.main import run_command_line
from chronorun.config.run import RunConfig


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@dataclass
class FakeTraining:
    """Notes what it was asked to train, and raises what it was told to."""

    runs: list[tuple[RunConfig, Any, Path]] = field(default_factory=list)
    errors: list[BaseException | None] = field(default_factory=list)

    def __call__(
        self, config: RunConfig, composed: Any, run_dir: Path, trackers: object, processes: object
    ) -> dict[str, Any]:
        self.runs.append((config, composed, run_dir))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return {"val_loss": 1.0}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTraining]:
    fake = FakeTraining()
    # Into the module's dict: reading the lazy attribute first would import torch.
    monkeypatch.setitem(vars(chronorun.training), "run_training", fake)
    monkeypatch.setitem(vars(chronorun.tracking), "build_trackers", lambda *_: object())
    monkeypatch.chdir(tmp_path)
    before = os.environ.get("HYDRA_FULL_ERROR")
    yield fake
    assert os.environ.get("HYDRA_FULL_ERROR") == before


@pytest.fixture
def chronorun_here(
    training: FakeTraining, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    def run(*arguments: str) -> Outcome:
        code = run_command_line(arguments)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
