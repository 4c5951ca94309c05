"""What a checkpoint with sound hashes says is checked before anything is built from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from warm.commands import Commands

from chronorun.core.launch import Place
from chronorun.core.processes import Processes
from chronorun.errors import StorageError
from chronorun.training.checkpoints.folder import as_checkpoint_error, load_checkpoint
from reliability import nano
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


NUMBERS = "(ValidationError: Expected `int`, got `str`"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("lifecycle.registry.slots", AWAY, "(KeyError: 'slots')"),
        ("lifecycle.registry.records.0.state", "x", "(ValidationError: Invalid enum value 'x'"),
        ("lifecycle.policy.layers.1.growth", "x", f"{NUMBERS} - at `$.layers[...].growth`)"),
        ("lifecycle.steps_taken", "x", f"{NUMBERS})"),
        ("lifecycle.tap.steps", None, "(ValidationError: Expected `int`, got `null`)"),
        ("lifecycle.weights.0", [1], "(ValidationError: Expected `object`, got `array`)"),
        ("controller.states.0.pressure", "x", "(ValidationError: Expected `float`, got `str`"),
        ("lenses.0.s", [], "(ValidationError: Expected `float`, got `array`)"),
        ("recorder.steps.0", "x", f"{NUMBERS} - at `$[0]`)"),
        ("alerts", {"0": {"collapse_count": "x"}}, f"{NUMBERS} - at `$[...][...]`)"),
    ],
)
def test_a_state_that_fits_no_run_is_a_storage_error(
    run_command: Commands,
    place: Path,
    uninterrupted: Path,
    path: str,
    value: Any,
    complaint: str,
) -> None:
    run = nano.copy_until(uninterrupted, place / "outputs" / "x", 33)
    file = nano.checkpoint(run, 33) / "state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    *parents, last = path.split(".")
    node = state["heartbeat"]
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    if value is AWAY:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    file.write_text(json.dumps(state))
    sign(file.parent)
    done = run_command(place, "train", "resume=outputs/x")
    said = done.err.splitlines()[-1]
    assert done.code == 3
    assert said.startswith(
        f"chronorun: error: checkpoint: outputs/x/checkpoints/step_00000033 does not fit this run "
        f"{complaint}"
    )
    assert said.endswith("; resume from another checkpoint")


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
    with (
        pytest.raises(StorageError, match="does not fit this run"),
        as_checkpoint_error(checkpoint),
    ):
        raise RuntimeError("size mismatch")
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    two = Processes(Place(rank=0, local_rank=0, world=2, local_world=2))
    with (
        pytest.raises(RuntimeError, match="Connection closed"),
        as_checkpoint_error(checkpoint, two),
    ):
        raise lost
    # Alone, it can only be a word in the checkpoint.
    with (
        pytest.raises(StorageError, match="does not fit this run"),
        as_checkpoint_error(checkpoint),
    ):
        raise lost
