"""Fixtures of the reliability tests: counts, and runs that nothing befell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from levels import level
from shared import Shared
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Count tries: ``assert count("what was tried", held)``."""
    figures = Figures()
    yield figures
    request.node.user_properties.append(("figures", figures.counts()))


@pytest.fixture(scope="session")
def exhaustive(request: pytest.FixtureRequest) -> bool:
    return level(request.config) == 2


@pytest.fixture(scope="session")
def overrides(shared: Shared) -> tuple[str, ...]:
    """What the runs of these tests are started with, edits of each kind among it."""
    folder = shared.once("plan", nano.write_plan)
    return (*nano.RUN, nano.following(folder))


@pytest.fixture(scope="session")
def uninterrupted(run_command: Commands, overrides: tuple[str, ...], shared: Shared) -> Path:
    """A run that nothing befell, with a checkpoint of each step."""
    often = ("training.checkpoint_interval=1", "training.keep_last=100")

    def train(folder: Path) -> None:
        done = run_command(folder, "train", *overrides, *often)
        assert done.code == 0, done.told

    return shared.once("uninterrupted", train) / "outputs" / "x"


@pytest.fixture(scope="session")
def moments(
    run_command: Commands, overrides: tuple[str, ...], shared: Shared
) -> dict[str, list[int]]:
    """How many moments a run has: in each of its saves, edits and steps, and (``""``) in all."""

    def train(folder: Path) -> None:
        hook = ("count_moments", {"path": str(folder / "counts")})
        done = run_command(folder, "train", *overrides, hooks=[hook])
        assert done.code == 0, done.told

    counts = shared.once("moments", train) / "counts"
    return dict(json.loads(counts.read_text(encoding="utf-8")))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to run in, gone afterwards: hundreds of runs do not fit gladly."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)
