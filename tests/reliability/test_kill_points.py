"""A run killed at any moment and resumed equals one that nothing befell, bit for bit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures


def drawn(
    moments: dict[str, list[int]], region: str | None, number: int
) -> tuple[str, dict[str, Any]]:
    """Draw one of a region's moments."""
    draw, counts = random.Random(f"{region} {number}"), moments[region or ""]
    call = draw.randrange(len(counts))
    # A run has some moments more or less than the one that was counted, at its very end.
    tick = draw.randrange(1, int(counts[call] * 0.95))
    return "signal_at", {"region": region, "call": call, "tick": tick}


def check(
    run_command: Commands, overrides: tuple[str, ...], place: Path, uninterrupted: Path
) -> None:
    done = run_command(place, "train", *overrides, "resume=auto")
    assert done.code == 0, done.told
    assert nano.differences(uninterrupted, place / "outputs" / "x") == []


@pytest.fixture
def kill_and_check(
    run_command: Commands, overrides: tuple[str, ...], place: Path, uninterrupted: Path
) -> Callable[[tuple[str, dict[str, Any]]], bool]:
    def run(hook: tuple[str, dict[str, Any]]) -> bool:
        killed = run_command(place, "train", *overrides, hooks=[hook])
        assert killed.code == -9, killed.told
        check(run_command, overrides, place, uninterrupted)
        return True

    return run


@pytest.mark.tries(1, 2, 12)
def test_killed_inside_a_save(
    number: int,
    kill_and_check: Callable[[tuple[str, dict[str, Any]]], bool],
    moments: dict[str, list[int]],
    count: Figures,
) -> None:
    hook = drawn(moments, "save", number)
    held = kill_and_check(hook)
    assert count("killed inside a save, resumed bit-equal", held)


@pytest.mark.tries(0, 2, 8)
def test_killed_inside_an_edit(
    number: int,
    kill_and_check: Callable[[tuple[str, dict[str, Any]]], bool],
    moments: dict[str, list[int]],
    count: Figures,
) -> None:
    hook = drawn(moments, "edit", number)
    held = kill_and_check(hook)
    assert count("killed inside a structural edit, resumed bit-equal", held)


@pytest.mark.tries(1, 1, 15)
def test_killed_anywhere(
    number: int,
    kill_and_check: Callable[[tuple[str, dict[str, Any]]], bool],
    moments: dict[str, list[int]],
    count: Figures,
) -> None:
    hook = drawn(moments, None, number)
    held = kill_and_check(hook)
    assert count("killed at any moment, resumed bit-equal", held)


@pytest.mark.tries(0, 1, 15)
def test_killed_by_the_clock(
    number: int,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    uninterrupted: Path,
    count: Figures,
) -> None:
    # Moments are counted between calls; a clock also hits the inside of a C function.
    after, killed = 0.5 + 2.5 * random.Random(number).random(), None
    while killed is None or killed.code == 0:
        # Where a run is faster than that, sooner.
        shutil.rmtree(place / "outputs", ignore_errors=True)
        killed = run_command(place, "train", *overrides, kill_after_s=after)
        after /= 2
    assert killed.code == -9, killed.told
    check(run_command, overrides, place, uninterrupted)
    assert count("killed by the clock, resumed bit-equal", held=True)
