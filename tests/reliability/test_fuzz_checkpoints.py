"""Hostile checkpoints, hashes and all: refused in one line, nothing run, nothing written elsewhere.

What merely damages a file is caught by its hash. Whoever writes a checkpoint on purpose writes the
hashes, too: what the files say must then be checked before anything is allocated or done.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from warm.commands import Commands

from chronorun.training.checkpoints.manifest import MANIFEST, make_manifest
from reliability import fuzzing, nano
from reliability.figures import Figures

PER_BATCH = 25
TENSORS = ("model.safetensors", "optimizer.safetensors", "state.safetensors")


@pytest.fixture(scope="module")
def original(uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint, of its last step but one."""
    target = tmp_path_factory.mktemp("original") / "x"
    nano.copy_until(uninterrupted, target, nano.LAST - 1)
    for path in (target / "checkpoints").iterdir():
        if path != nano.checkpoint(target, nano.LAST - 1):
            shutil.rmtree(path)
    return target


def sign(folder: Path) -> None:
    """Write the manifest that fits what the folder holds."""
    manifest = make_manifest(folder, int(folder.name.removeprefix("step_")))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def spoil_header(path: Path, draw: random.Random) -> None:
    """Change what a safetensors file says of its tensors: names, types, shapes, places."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    name = draw.choice(sorted(header))
    change = draw.randrange(5)
    if change == 0:
        header[name] = fuzzing.spoil_value(header[name], draw)
    elif change == 1:
        header[name]["shape"] = draw.choice(([2**40, 2**20], [-1], [], [0], [1] * 100))
    elif change == 2:
        header["../../" + name] = header.pop(name)
    elif change == 3:
        del header[name]
    else:
        header[name]["dtype"] = draw.choice(("F64", "I8", "BOOL", "F4", "nonsense"))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def spoil(folder: Path, draw: random.Random) -> None:
    how = draw.randrange(4)
    if how == 0:
        path = folder / draw.choice(TENSORS)
        path.write_bytes(fuzzing.spoil_bytes(path.read_bytes(), draw))
    elif how == 1:
        spoil_header(folder / draw.choice(TENSORS), draw)
    else:
        path = folder / "state.json"
        state = json.loads(path.read_text(encoding="utf-8"))
        if how == 2:
            state = fuzzing.spoil_value(state, draw)
        else:
            state["heartbeat"] = fuzzing.spoil_value(state["heartbeat"], draw)
        path.write_text(json.dumps(state), encoding="utf-8")
    sign(folder)


@pytest.mark.tries(0, 1, 20)
def test_hostile_checkpoints(
    number: int, run_command: Commands, place: Path, original: Path, count: Figures
) -> None:
    draw, cases = random.Random(number), []
    for case in range(PER_BATCH):
        cwd = place / str(case)
        shutil.copytree(original, cwd / "outputs" / "x")
        spoil(nano.checkpoint(cwd / "outputs" / "x", nano.LAST - 1), draw)
        cases.append((cwd, ["train", "resume=outputs/x"]))
    fuzzing.run_cases(run_command, place, cases, count, "hostile checkpoints", train=True)
    assert {path.name for path in place.iterdir()} <= {
        *map(str, range(PER_BATCH)),
        "cases.json",
        "results.json",
        "stdout.txt",
        "stderr.txt",
    }
