"""A full disk: one line, exit 3, the checkpoint before intact, and the run goes on later."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from warm.commands import Commands, Done

from chronorun.training.checkpoints.folder import load_checkpoint
from reliability import nano
from reliability.figures import Figures


def check_one_line(done: Done) -> None:
    assert done.code == 3, done.told
    errors = [line for line in done.err.splitlines() if line.startswith("chronorun: error: ")]
    assert len(errors) == 1, done.told
    assert "No space left on device" in errors[0]
    assert "Traceback" not in done.told


@pytest.mark.parametrize("save", [1, 4, 7])
def test_a_disk_that_fills_during_a_save(
    save: int,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    uninterrupted: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not (exhaustive or save == 4):
        pytest.skip("needs --exhaustive")
    run = place / "outputs" / "x"
    how = {"folder": "outputs/x", "at": save, "how": errno.ENOSPC, "region": "save"}
    done = run_command(place, "train", *overrides, hooks=[("fail_disk", how)])
    check_one_line(done)
    refused = f"outputs/x/checkpoints/step_{5 * (save + 1):08d}"
    assert done.err.splitlines()[-1] == (
        f"chronorun: error: checkpoint: {refused} cannot be written (No space left on device); "
        f"free some disk space and resume from the one before"
    )
    assert load_checkpoint(nano.checkpoint(run, 5 * save)).step == 5 * save
    assert not (place / refused).exists()
    done = run_command(place, "train", *overrides, "resume=auto")
    assert done.code == 0, done.told
    assert count("disk full in a save: exit 3, resumed", nano.differences(uninterrupted, run) == [])


@pytest.mark.tries(1, 2, 20)
def test_a_disk_that_fills_at_any_moment(
    number: int,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    uninterrupted: Path,
    count: Figures,
) -> None:
    at = random.Random(number).randrange(1, 900)
    how = {"folder": "outputs/x", "at": at, "how": errno.ENOSPC, "region": None}
    done = run_command(place, "train", *overrides, hooks=[("fail_disk", how)])
    check_one_line(done)
    done = run_command(place, "train", *overrides, "resume=auto")
    assert done.code == 0, done.told
    held = nano.differences(uninterrupted, place / "outputs" / "x") == []
    assert count("disk full at any moment: exit 3, resumed", held)
