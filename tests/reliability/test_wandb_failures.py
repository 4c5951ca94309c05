"""Whatever Weights & Biases does, the run computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures

WAYS: dict[str, tuple[dict[str, str], list[tuple[str, dict[str, Any]]]]] = {
    "absent": ({"WANDB_MODE": "online"}, [("no_wandb", {})]),
    "offline": ({"WANDB_MODE": "offline"}, []),
    "unreachable": (
        {
            "WANDB_MODE": "online",
            "WANDB_API_KEY": "0" * 40,
            # Nothing listens there.
            "WANDB_BASE_URL": "http://127.0.0.1:9",
        },
        [],
    ),
    "raising in init": ({"WANDB_MODE": "online"}, [("fake_wandb", {"raising": "init"})]),
    "raising in log": ({"WANDB_MODE": "online"}, [("fake_wandb", {"raising": "log"})]),
    "raising in finish": ({"WANDB_MODE": "online"}, [("fake_wandb", {"raising": "finish"})]),
}
SLOW = ("offline", "unreachable")


@pytest.mark.parametrize("way", WAYS)
def test_the_run_is_bit_identical(
    way: str,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    uninterrupted: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and way in SLOW:
        pytest.skip("needs --exhaustive")
    env, hooks = WAYS[way]
    quick = "tracking.wandb.start_timeout_s=5"
    done = run_command(place, "train", *overrides, quick, env=env, hooks=hooks)
    assert done.code == 0, done.told
    assert "Traceback" not in done.told
    if way == "offline":
        assert list((place / "outputs" / "x").rglob("*.wandb"))
    else:
        assert done.err.count("going on without it") == 1, done.err
    held = nano.differences(uninterrupted, place / "outputs" / "x") == []
    assert count(f"W&B {way}: bit-identical to a run without it", held)
