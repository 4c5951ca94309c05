"""Ctrl-C and SIGTERM wherever they come: saved, said how to go on, the documented exit code."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures

QUICK = {("step", signal.SIGTERM), ("save", signal.SIGINT), ("edit", signal.SIGTERM)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("region", ["step", "save", "edit"])
@pytest.mark.parametrize("draw", range(3))
def test_the_first_signal_saves(
    draw: int,
    region: str,
    number: signal.Signals,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    uninterrupted: Path,
    moments: dict[str, list[int]],
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and (draw or (region, number) not in QUICK):
        pytest.skip("needs --exhaustive")
    choose = random.Random(f"{region} {number} {draw}")
    # Not the last: a run that is done anyway completes.
    call = choose.randrange(len(moments[region]) - 1)
    tick = choose.randrange(1, int(moments[region][call] * 0.95))
    at = {"region": region, "call": call, "tick": tick, "number": int(number)}
    stopped = run_command(place, "train", *overrides, hooks=[("signal_at", at)])
    assert stopped.code == 128 + number, stopped.told
    run = place / "outputs" / "x"
    check_told(stopped.err, run)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    done = run_command(place, "train", "resume=outputs/x")
    assert done.code == 0, done.told
    held = nano.differences(uninterrupted, run) == []
    assert count(f"{number.name} in a {region}: saved, exit {128 + number}, resumed", held)


def check_told(err: str, run: Path) -> None:
    newest = max(path.name for path in (run / "checkpoints").iterdir())
    step = int(newest.removeprefix("step_"))
    assert err.splitlines()[-1] == (
        f"chronorun: error: interrupted after step {step}: everything is saved; "
        f"continue with: chronorun train resume=outputs/x"
    )
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("region", ["step", "save", "edit"])
def test_the_second_signal_leaves_at_once(
    region: str,
    number: signal.Signals,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    uninterrupted: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and (region, number) not in QUICK:
        pytest.skip("needs --exhaustive")
    at = {"region": region, "call": 3, "tick": 30, "number": int(number), "times": 2}
    stopped = run_command(place, "train", *overrides, hooks=[("signal_at", at)])
    assert stopped.code == -number, stopped.told
    assert "interrupted after step" not in stopped.err
    done = run_command(place, "train", *overrides, "resume=auto")
    assert done.code == 0, done.told
    held = nano.differences(uninterrupted, place / "outputs" / "x") == []
    assert count("a second signal leaves at once, resumed bit-equal", held)
