"""Damage anywhere in what a resume reads is found and named; the newest good step is taken."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from warm.commands import Commands

from chronorun.core.state import unpack
from chronorun.errors import StorageError
from chronorun.lifecycle.edit.archive import Archive
from chronorun.training.checkpoints.folder import load_checkpoint, newest_good_checkpoint
from chronorun.training.logs import RunLogs
from reliability import nano
from reliability.figures import Figures

FILES = (
    "MANIFEST.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "state.safetensors",
)
Damage = Callable[[Path, random.Random], None]


def flip(path: Path, draw: random.Random) -> None:
    position, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


@pytest.fixture
def run(tmp_path: Path, uninterrupted: Path) -> Path:
    """A run folder with the last two checkpoints."""
    target = tmp_path / "outputs" / "x"
    for path in sorted((uninterrupted / "checkpoints").iterdir())[-2:]:
        shutil.copytree(path, target / "checkpoints" / path.name)
    return target


def check_passed_over(run: Path, named: Path) -> None:
    """The newest is refused, the file named; the one before is taken, and that is said."""
    with pytest.raises(StorageError) as caught:
        load_checkpoint(nano.checkpoint(run))
    message = str(caught.value)
    assert message.startswith(f"checkpoint: {named} ")
    assert message.endswith("; resume from another checkpoint")
    assert "\n" not in message
    found, notices = newest_good_checkpoint(run)
    assert found is not None
    assert found.step == nano.LAST - 1
    assert notices == [f"passed over a damaged checkpoint: {message}"]


@pytest.mark.parametrize(
    ("damage", "times", "what"),
    [(flip, (50, 300), "bit flips"), (truncate, (25, 100), "truncations")],
    ids=["flip", "truncate"],
)
def test_checkpoint_files(
    run: Path, damage: Damage, times: tuple[int, int], what: str, count: Figures, exhaustive: bool
) -> None:
    newest, draw = nano.checkpoint(run), random.Random(what)
    for number in range(times[exhaustive]):
        path = newest / FILES[number % len(FILES)]
        content = path.read_bytes()
        damage(path, draw)
        check_passed_over(run, path)
        count(f"{what} of checkpoint files", held=True)
        path.write_bytes(content)
    assert load_checkpoint(newest).step == nano.LAST


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "swapped"])
def test_missing_empty_and_swapped_files(run: Path, name: str, damage: str, count: Figures) -> None:
    path, other = nano.checkpoint(run) / name, nano.checkpoint(run, nano.LAST - 1) / name
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(other.read_bytes())
    check_passed_over(run, path)
    count(f"{damage} checkpoint files", held=True)


@pytest.mark.parametrize("damage", [flip, truncate], ids=["flip", "truncate"])
def test_logs(
    tmp_path: Path, uninterrupted: Path, damage: Damage, count: Figures, exhaustive: bool
) -> None:
    saved = load_checkpoint(nano.checkpoint(uninterrupted)).state["logs"]
    draw = random.Random("logs")
    names = [name for name, known in saved.items() if known]
    for number in range((2 if exhaustive else 1) * len(names)):
        run = tmp_path / str(number)
        run.mkdir()
        for name in names:
            shutil.copy(uninterrupted / f"{name}.jsonl", run)
        path = run / f"{names[number % len(names)]}.jsonl"
        damage(path, draw)
        with pytest.raises(StorageError) as caught:
            RunLogs(run, saved)
        assert str(caught.value) == (
            f"log: {path} differs from what the checkpoint recorded in its first "
            f"{saved[path.stem]['offset']} bytes; resume from another checkpoint or restore the "
            f"file"
        )
        count("bit flips and truncations of logs", held=True)


@pytest.mark.parametrize("damage", [flip, truncate], ids=["flip", "truncate"])
def test_archived_experts(
    tmp_path: Path, uninterrupted: Path, damage: Damage, count: Figures
) -> None:
    # Before the first revival: pruned and merged experts are archived, none of them lives again.
    loaded = load_checkpoint(nano.checkpoint(uninterrupted, 24))
    state = unpack(loaded.state, loaded.tensors["state"])["heartbeat"]["lifecycle"]
    shutil.copytree(uninterrupted / "archive", tmp_path / "archive")
    archive = Archive(tmp_path / "archive")
    archive.load_state_dict(state["population"]["archive"])
    entries = state["population"]["archive"]["index"]
    assert len(entries) >= 2
    draw = random.Random("archive")
    for expert_id, entry in entries.items():
        path = tmp_path / "archive" / entry["file"]
        archive.get(expert_id)
        damage(path, draw)
        with pytest.raises(StorageError) as caught:
            archive.get(expert_id)
        assert str(caught.value) == (f"archive: {path} differs from its sha256; restore the file")
        count("bit flips and truncations of archived experts", held=True)


def test_the_command_line_says_what_it_passed_over(
    run_command: Commands, place: Path, uninterrupted: Path, count: Figures
) -> None:
    run = nano.copy_until(uninterrupted, place / "outputs" / "x", 30)
    for step, name in ((30, "model.safetensors"), (29, "state.json")):
        flip(nano.checkpoint(run, step) / name, random.Random(step))
    (nano.checkpoint(run, 28) / "MANIFEST.json").unlink()
    done = run_command(place, "train", "run_id=x", "resume=auto")
    assert done.code == 0, done.told
    passed = "passed over a damaged checkpoint: checkpoint: outputs/x/checkpoints/step_000000"
    again = "; resume from another checkpoint"
    told = " ".join(done.err.split())
    for line in (
        f"{passed}30/model.safetensors differs from its sha256{again}",
        f"{passed}29/state.json differs from its sha256{again}",
        f"{passed}28/MANIFEST.json is missing{again}",
        "resuming x after step 27",
    ):
        assert line in told
    held = nano.differences(uninterrupted, run) == []
    assert count("resumed from the newest good of several damaged checkpoints", held)


def test_nothing_good_is_told(run_command: Commands, place: Path, uninterrupted: Path) -> None:
    run = nano.copy_until(uninterrupted, place / "outputs" / "x", 3)
    for path in (run / "checkpoints").iterdir():
        (path / "state.json").write_bytes(b"")
    done = run_command(place, "train", "resume=outputs/x")
    assert done.code == 3
    assert done.err.splitlines()[-1] == (
        "chronorun: error: resume: outputs/x holds no usable checkpoint, expected "
        "checkpoints/step_*; start the run anew or name another folder"
    )
