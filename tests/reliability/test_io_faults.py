"""Whatever file operation fails first: the old step loads or the new one, never a mix."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from chronorun.core.files import write_atomically
from chronorun.errors import StorageError
from chronorun.lifecycle.edit.archive import Archive, Archived
from chronorun.lifecycle.edit.saved import Saved
from chronorun.training.checkpoints.folder import (
    Checkpoint,
    newest_good_checkpoint,
    prune_checkpoints,
    remove_leftovers,
    save_checkpoint,
)
from chronorun.training.logs import RunLogs
from reliability.faults import CRASH, MODES, Disk, faulty
from reliability.figures import Figures


def expert(step: int) -> Archived:
    return Archived(Saved({"w": torch.full((3,), float(step))}), None)


def advance(run: Path, logs: RunLogs, archive: Archive, step: int) -> None:
    """Do what a run writes on its way to a checkpoint, with nothing but files."""
    for name in (logs.metrics, logs.snapshots, logs.timings):
        name.write({"step": step})
    archive.put(f"L0_E{step}", step, expert(step))
    state = {"step": step, "logs": logs.state(), "archive": archive.state_dict()}
    tensors = {"w": torch.full((8,), float(step)), "b": torch.arange(step)}
    save_checkpoint(run, step, {"model": tensors, "state": {"n": torch.tensor(step)}}, state)
    prune_checkpoints(run, 1, None)


def begin(run: Path) -> tuple[RunLogs, Archive]:
    logs, archive = RunLogs(run), Archive(run / "archive")
    advance(run, logs, archive, 1)
    return logs, archive


def go_on(run: Path, logs: RunLogs, archive: Archive) -> None:
    advance(run, logs, archive, 2)
    write_atomically(run / "summary.json", b"{}\n")
    logs.close()


def resume(run: Path) -> tuple[Checkpoint, RunLogs]:
    """Do what a resumed run does to its folder before it trains."""
    checkpoint, _ = newest_good_checkpoint(run)
    assert checkpoint is not None
    remove_leftovers(run)
    return checkpoint, RunLogs(run, checkpoint.state["logs"])


def check_whole(run: Path) -> None:
    """One step, everywhere: in tensors, state, logs and archive; and it goes on from there."""
    checkpoint, logs = resume(run)
    step = checkpoint.step
    assert step in (1, 2)
    assert checkpoint.state["step"] == step
    assert checkpoint.tensors["model"]["w"].tolist() == [float(step)] * 8
    assert checkpoint.tensors["model"]["b"].tolist() == list(range(step))
    assert checkpoint.tensors["state"]["n"].item() == step
    archive = Archive(run / "archive")
    archive.load_state_dict(checkpoint.state["archive"])
    for number in range(1, step + 1):
        assert archive.get(f"L0_E{number}").saved.values["w"].tolist() == [float(number)] * 3
    lines = b"".join(b'{"step":%d}\n' % number for number in range(1, step + 1))
    assert (run / "metrics.jsonl").read_bytes() == lines
    if (run / "summary.json").exists():
        assert (run / "summary.json").read_bytes() == b"{}\n"
    advance(run, logs, archive, 3)
    logs.close()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step_00000003"}
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]


def fail(run: Path, disk: Disk) -> bool:
    """Go on with a disk that fails; say whether it did. Only documented errors come out."""
    logs, archive = begin(run)
    # The command line reports both in one line, exit 3.
    with faulty(disk), suppress(StorageError, OSError):
        go_on(run, logs, archive)
    return disk.failed


def fail_by_exit(run: Path, disk: Disk) -> bool:
    logs, archive = begin(run)
    pid = os.fork()
    if pid == 0:
        with faulty(disk):
            go_on(run, logs, archive)
        os._exit(0)
    logs.close()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, CRASH)
    return code == CRASH


@pytest.mark.parametrize(("name", "how", "lasting"), MODES, ids=[mode[0] for mode in MODES])
def test_the_kth_operation_of_a_save_fails(
    tmp_path: Path, name: str, how: Any, lasting: bool, count: Figures
) -> None:
    k, failed = 0, True
    while failed:
        k += 1
        run = tmp_path / str(k)
        disk = Disk(run, k, how, lasting=lasting)
        failed = (fail_by_exit if how == "exit" else fail)(run, disk)
        check_whole(run)
        count(f"the k-th file operation of a save fails ({name})", held=True)
    assert k > 40


def resumed(run: Path) -> None:
    _, logs = resume(run)
    logs.close()


@pytest.mark.parametrize(("name", "how", "lasting"), MODES, ids=[mode[0] for mode in MODES])
def test_the_kth_operation_of_a_resume_fails(
    tmp_path: Path, name: str, how: Any, lasting: bool, count: Figures
) -> None:
    k, failed = 0, True
    while failed:
        k += 1
        run = tmp_path / str(k)
        logs, _ = begin(run)
        logs.snapshots.write({"step": 2})
        logs.close()
        failed = fail_resume(run, Disk(run, k, how, lasting=lasting))
        check_whole(run)
        kept = b"".join(path.read_bytes() for path in run.glob("snapshots.jsonl.orphaned-*"))
        assert b'{"step":2}\n' in kept
        count(f"the k-th file operation of a resume fails ({name})", held=True)
    assert k > 15


def fail_resume(run: Path, disk: Disk) -> bool:
    if disk.how == "exit":
        pid = os.fork()
        if pid == 0:
            with faulty(disk):
                resumed(run)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == CRASH
    with faulty(disk), suppress(StorageError, OSError, AssertionError):
        resumed(run)
    return disk.failed
