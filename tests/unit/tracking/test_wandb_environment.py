"""W&B's own variables count where the configuration is silent, and it needs no home folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from chronorun.tracking.wandb_environment import give_home, left_open


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("project", "WANDB_PROJECT"),
        ("name", "WANDB_NAME"),
        ("entity", "WANDB_ENTITY"),
        ("id", "WANDB_RUN_ID"),
        ("dir", "WANDB_DIR"),
    ],
)
def test_a_variable_of_wandb_wins_over_our_default(name: str, variable: str) -> None:
    ours = {"project": "chronorun", "name": "r", "entity": "x", "id": "i", "dir": "d"}
    kept = left_open(ours, {variable: "theirs"})
    assert kept == {key: value for key, value in ours.items() if key != name}
    assert left_open(ours, {variable: ""}) == ours


def test_a_home_that_takes_no_files_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    environment = {"HOME": str(blocked)}
    give_home(tmp_path / "run", environment)
    assert environment["WANDB_CACHE_DIR"] == str(tmp_path / "run" / "cache")


def test_a_home_that_takes_files_is_left_alone(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    give_home(tmp_path / "run", environment)
    assert environment == {"HOME": str(tmp_path)}
