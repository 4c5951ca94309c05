"""Runs of processes that share nothing, hash seeds included, are stopped and go on as any number.

A run that never stopped is the measure: its decisions, and its losses to the last bit where the
number of processes stays the same.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures
from reliability.ranks import LIMIT_S, Pair

STEP = 18
"""In the middle of a window, after some of the edits and before the last."""
RUN = (
    *nano.NANO,
    "edits=policy",
    f"training.max_steps={nano.LAST}",
    f"training.checkpoint_interval={STEP}",
    "training.keep_last=100",
    "run_id=x",
)
DECISIONS = ("lifecycle_decisions.jsonl", "control_decisions.jsonl", "expert_transitions.jsonl")


class Train(Protocol):
    """Runs ``chronorun train`` in a number of processes and expects it to succeed."""

    def __call__(self, world: int, cwd: Path, *arguments: str, agent: bool = False) -> Path: ...


class NeverStopped(Protocol):
    """Gives the folder of a run of a number of processes that never stopped."""

    def __call__(self, world: int) -> Path: ...


@pytest.fixture(scope="session")
def train(run_command: Commands) -> Train:
    pair = Pair(run_command)

    def run(world: int, cwd: Path, *arguments: str, agent: bool = False) -> Path:
        if world == 1:
            done = run_command(cwd, "train", *arguments)
            assert done.code == 0, done.told
        else:
            ends = pair(cwd, "train", *arguments, agent=agent, world=world)
            assert [end.code for end in ends] == [0] * world, ends
        return cwd / "outputs" / "x"

    return run


@pytest.fixture(scope="session")
def never_stopped(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeverStopped]:
    folder = tmp_path_factory.mktemp("never-stopped")
    yield cache(lambda world: train(world, folder / str(world), *RUN))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("agent", [True, False], ids=["torchrun", "alone"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (2, 2),
        (2, 1),
        *(pytest.param(*pair, marks=pytest.mark.whole) for pair in ((1, 2), (4, 2), (2, 4))),
    ],
)
def test_a_run_goes_on_in_other_processes_with_the_same_decisions(
    first: int,
    then: int,
    agent: bool,
    train: Train,
    never_stopped: NeverStopped,
    place: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if then == 1 and agent:
        pytest.skip("one process needs no torchrun")
    # torchrun takes seconds to start; the processes differ as much without it.
    if not exhaustive and agent:
        pytest.skip("needs --exhaustive")
    expected = never_stopped(first)
    run = nano.copy_until(expected, place / "outputs" / "x", STEP)
    train(then, place, "resume=outputs/x", agent=agent)
    held = differences(expected, run, exact=first == then) == []
    assert count(f"saved by {first} real processes, resumed by {then}", held)


@pytest.mark.whole
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["rank 1", "rank 0", "torchrun", "all"])
def test_a_stopped_run_goes_on_with_any_number_of_processes(
    whom: str,
    number: signal.Signals,
    train: Train,
    never_stopped: NeverStopped,
    run_command: Commands,
    place: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    # Ctrl-C goes to all of a terminal, and torchrun hands it on.
    if not exhaustive and (whom, number) != ("all", signal.SIGINT):
        pytest.skip("needs --exhaustive")
    told = stop(run_command.environment, place / "stopped", whom, number)
    run = place / "stopped" / "outputs" / "x"
    [step] = {path.name for path in (run / "checkpoints").iterdir()} - {"step_00000018"}
    said = f"interrupted after step {int(step.removeprefix('step_'))}: everything is saved"
    assert told.count(f"chronorun: error: {said}") == 2, told
    assert "chronorun: error: interrupted\n" not in told
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    for world in (2, 1, 4):
        again = place / str(world)
        shutil.copytree(run, again / "outputs" / "x", symlinks=True)
        train(world, again, "resume=outputs/x", agent=world == 2)
        found = differences(never_stopped(2), again / "outputs" / "x", exact=world == 2)
        assert count(f"{number.name} to {whom}, resumed by {world}", found == []), found


def stop(environment: dict[str, str], cwd: Path, whom: str, number: signal.Signals) -> str:
    """Start two processes, send one or all a signal amid the run; return what they said."""
    cwd.mkdir()
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with (cwd / "told").open("wb") as told:
        agent = subprocess.Popen(
            [sys.executable, *start, "-m", "chronorun", "train", *RUN],
            cwd=cwd,
            env=environment,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    metrics, deadline = cwd / "outputs" / "x" / "metrics.jsonl", time.monotonic() + LIMIT_S
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < STEP + 1:
        assert agent.poll() is None, (cwd / "told").read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if whom == "all":
        os.killpg(agent.pid, number)
    else:
        os.kill(agent.pid if whom == "torchrun" else rank_of(agent.pid, whom), number)
    assert agent.wait(LIMIT_S) != 0
    return (cwd / "told").read_text(encoding="utf-8")


def rank_of(agent: int, whom: str) -> int:
    """Return the process id of ``rank N`` among the children of torchrun."""
    wanted = f"RANK={whom.removeprefix('rank ')}".encode()
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"torchrun has no child of {whom}")


def differences(one: Path, other: Path, *, exact: bool) -> list[str]:
    """Name what differs between two runs beyond 1e-6, or at all where ``exact``."""
    assert {line["action"] for line in records(one / DECISIONS[0])} == {"SPLIT", "SPAWN"}
    assert len({line["step"] > STEP for line in records(one / DECISIONS[0])}) == 2
    if exact:
        return nano.differences(one, other)
    return [
        name
        for name in (*DECISIONS, "metrics.jsonl")
        if not alike(records(one / name), records(other / name))
    ]


def records(path: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key != "timestamp"} for line in lines]


def alike(one: Any, other: Any) -> bool:
    """Say whether two records are equal, numbers that are no integers within 1e-6."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-6, abs=1e-6)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)
