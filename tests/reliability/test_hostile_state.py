"""What a checkpoint with sound hashes says is checked before anything is built from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chronorun.errors import StorageError
from chronorun.training.checkpoint import load_checkpoint
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
        ("logs", AWAY, "is not the state of a run (Object missing required field `logs`)"),
        ("scenario", {"__tensor__": "model.w"}, "names tensor 'model.w', which is not there"),
    ],
    ids=["many experts", "no population", "threads", "step", "missing", "tensor"],
)
def test_the_state_of_a_run(folder: Path, key: str, value: Any, complaint: str) -> None:
    file = folder / "state.json"
    state = json.loads(file.read_text(encoding="utf-8")) | {key: value}
    file.write_text(json.dumps({k: v for k, v in state.items() if v is not AWAY}))
    check_refused(folder, f"{file} {complaint}")


def test_state_too_deep_to_parse(folder: Path) -> None:
    (folder / "state.json").write_bytes(b'{"heartbeat":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    check_refused(folder, f"{folder} cannot be read (maximum recursion depth exceeded")


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
