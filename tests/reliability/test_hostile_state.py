"""What a checkpoint with sound hashes says is checked before anything is built from it."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from chronorun.core.launch import Place
from chronorun.core.processes import Processes
from chronorun.errors import StorageError
from chronorun.training.checkpoints.folder import load_checkpoint, told_as_misfit
from chronorun.training.checkpoints.state import check_types
from reliability import nano
from reliability.commands import Commands
from reliability.test_fuzz_checkpoints import sign

AWAY = object()


@pytest.fixture
def folder(tmp_path: Path, uninterrupted: Path) -> Path:
    source = nano.checkpoint(uninterrupted, 30)
    return Path(shutil.copytree(source, tmp_path / source.name))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("population", {"0": 10**9, "1": 8}, "tells of [8, 1000000000] experts, found [7, 9]"),
        (
            "population",
            None,
            "is not the state of a run (Expected `object`, got `null` - at `$.population`)",
        ),
        (
            "threads",
            10**6,
            "is not the state of a run (Expected `int` <= 4096 - at `$.threads`)",
        ),
        ("step", 7, "is of step 7, expected 30"),
        (
            "best",
            {"step": 5},
            "is not the state of a run (Object missing required field `val_loss` - at `$.best`)",
        ),
        ("logs", AWAY, "is not the state of a run (Object missing required field `logs`)"),
        ("scenario", {"__tensor__": "model.w"}, "names tensor 'model.w', which is not there"),
    ],
    ids=["many experts", "no population", "threads", "step", "best", "missing", "tensor"],
)
def test_the_state_of_a_run(folder: Path, key: str, value: Any, complaint: str) -> None:
    file = folder / "state.json"
    state = json.loads(file.read_text(encoding="utf-8")) | {key: value}
    file.write_text(json.dumps({k: v for k, v in state.items() if v is not AWAY}))
    check_refused(folder, f"{file} {complaint}")


def test_state_too_deep_to_parse(folder: Path) -> None:
    (folder / "state.json").write_bytes(b'{"heartbeat":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    check_refused(folder, f"{folder} cannot be read (maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("found", "fresh", "misfit"),
    [
        ({"a": [1, 2.5]}, {"a": []}, None),
        ({"a": [1, []]}, {"a": []}, "s.a[1] is a list, expected a int"),
        ({"a": [[1, "x"]]}, {"a": [[0, "y"]]}, None),
        ({"a": None, "b": None, "c": 3}, {"a": 0.5, "b": "", "c": None}, None),
        ({"a": None}, {"a": 1}, "s.a is a NoneType, expected a int"),
        ({"a": 1}, {"a": True}, "s.a is a int, expected a bool"),
        ({"a": "x"}, {"a": {}}, "s.a is a str, expected a dict"),
        ({"a": torch.ones(2)}, {"a": torch.zeros(2, 1)}, "s.a is of torch.float32, 1-d, expected"),
    ],
)
def test_types_of_state(found: Any, fresh: Any, misfit: str | None) -> None:
    with nullcontext() if misfit is None else pytest.raises(TypeError, match=re.escape(misfit)):
        check_types(found, fresh, "s")


def test_a_state_that_fits_no_run_is_a_storage_error(
    run_command: Commands, place: Path, uninterrupted: Path
) -> None:
    run = nano.copy_until(uninterrupted, place / "outputs" / "x", 30)
    file = nano.checkpoint(run, 30) / "state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    del state["heartbeat"]["lifecycle"]["registry"]["slots"]
    file.write_text(json.dumps(state))
    sign(file.parent)
    done = run_command(place, "train", "resume=outputs/x")
    assert (done.code, done.err.splitlines()[-1]) == (
        3,
        "chronorun: error: checkpoint: outputs/x/checkpoints/step_00000030 does not fit this run "
        "(KeyError: 'slots'); resume from another checkpoint",
    )


def check_refused(folder: Path, beginning: str) -> None:
    sign(folder)
    with pytest.raises(StorageError) as caught:
        load_checkpoint(folder)
    assert str(caught.value).startswith(f"checkpoint: {beginning}")
    assert str(caught.value).endswith("; resume from another checkpoint")


@pytest.mark.parametrize("name", ["model.safetensors", "extra.json", "model.pt"])
def test_links_and_unknown_names(folder: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((folder / "model.safetensors").read_bytes())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(StorageError) as caught:
        load_checkpoint(folder)
    assert str(caught.value) == (
        f"checkpoint: {folder / name} does not belong to a checkpoint; "
        f"resume from another checkpoint"
    )


def test_a_process_lost_meanwhile_is_no_misfit(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    with pytest.raises(StorageError, match="does not fit this run"), told_as_misfit(checkpoint):
        raise RuntimeError("size mismatch")
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    two = Processes(Place(rank=0, local_rank=0, world=2, local_world=2))
    with pytest.raises(RuntimeError, match="Connection closed"), told_as_misfit(checkpoint, two):
        raise lost
    # Alone, it can only be a word in the checkpoint.
    with pytest.raises(StorageError, match="does not fit this run"), told_as_misfit(checkpoint):
        raise lost
