"""Resuming at any step, and again and again, gives the run that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures

KINDS = {"SPAWN", "PRUNE", "SPLIT", "MERGE", "REVIVE", "ROLLBACK"}
# Of a split and a prune, a merge and a spawn, a fade's end, a revival, a rollback.
EDITS = (5, 10, 20, 25, 30)
STEPS = sorted({step + beside for step in EDITS for beside in (-1, 0, 1)})
QUICK = (5, 11, 19, 30)


def decisions(run: Path) -> list[dict[str, object]]:
    lines = (run / "lifecycle_decisions.jsonl").open(encoding="utf-8")
    return [json.loads(line) for line in lines]


def test_the_run_these_tests_use_holds_each_kind_of_action(uninterrupted: Path) -> None:
    found = decisions(uninterrupted)
    assert {d["action"] for d in found} == KINDS
    when = {d["step"] for d in found} | {d["integrated_step"] for d in found}
    assert when >= set(EDITS)
    assert any(d["integrated_step"] > d["step"] for d in found)  # type: ignore[operator]


@pytest.mark.parametrize("step", STEPS)
def test_resumed_before_of_and_after_each_kind_of_action(
    step: int,
    run_command: Commands,
    place: Path,
    uninterrupted: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not (exhaustive or step in QUICK):
        pytest.skip("needs --exhaustive")
    resumed = nano.copy_until(uninterrupted, place / "outputs" / "x", step)
    done = run_command(place, "train", f"resume=outputs/x/checkpoints/step_{step:08d}")
    assert done.code == 0, done.told
    held = nano.differences(uninterrupted, resumed) == []
    assert count("resumed before, of and after each kind of edit", held)


def test_resumed_twice(
    run_command: Commands, place: Path, uninterrupted: Path, count: Figures
) -> None:
    # First into a kill after another save, with logs that go on beyond both checkpoints.
    resumed = nano.copy_until(uninterrupted, place / "outputs" / "x", 9)
    hook = ("signal_at", {"region": "step", "call": 8, "tick": 500})
    again = ("train", "run_id=x", "resume=auto", "training.checkpoint_interval=4")
    killed = run_command(place, *again, hooks=[hook])
    assert killed.code == -9, killed.told
    assert len(list(resumed.glob("metrics.jsonl.orphaned-*"))) == 1
    assert max((resumed / "checkpoints").glob("step_*")).name == "step_00000016"
    done = run_command(place, *again)
    assert done.code == 0, done.told
    assert count("resumed twice", nano.differences(uninterrupted, resumed) == [])
    assert len(list(resumed.glob("metrics.jsonl.orphaned-*"))) == 2


def test_a_finished_run_resumed_stays_as_it_is(
    run_command: Commands, place: Path, uninterrupted: Path, count: Figures
) -> None:
    finished = nano.copy_until(uninterrupted, place / "outputs" / "x", nano.LAST)
    done = run_command(place, "train", "run_id=x", "resume=auto")
    assert done.code == 0, done.told
    assert count("a finished run resumed", nano.differences(uninterrupted, finished) == [])
