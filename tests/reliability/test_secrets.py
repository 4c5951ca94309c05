"""A key in the environment ends up nowhere; no file of a run needs pickle to be read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from warm.commands import TESTS, Commands

from reliability import nano
from reliability.figures import Figures

CANARY = "c4nary0123456789abcdef0123456789abcdef01"
PACKAGE = TESTS.parent / "chronorun"
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"torch.load", "torch.save", "yaml.load", "np.load", "numpy.load", "torch.jit"}


def places_with(secret: str, folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    named = [str(path) for path in folder.rglob("*") if secret in path.name]
    return named + [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("mode", ["disabled", "offline", "fails", "quoted", "interpolated"])
def test_the_key_of_wandb_is_nowhere(
    mode: str,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and mode == "offline":
        pytest.skip("needs --exhaustive")
    env = {"WANDB_API_KEY": CANARY, "WANDB_MODE": "disabled"}
    extra, hooks = ["training.max_steps=10"], []
    if mode == "offline":
        env["WANDB_MODE"] = "offline"
    elif mode in ("fails", "quoted"):
        # The library's own error quotes the key.
        env["WANDB_MODE"] = "online"
        where = "init" if mode == "fails" else "log"
        hooks.append(("fake_wandb", {"raising": where, "saying": f"bad key {CANARY}"}))
    elif mode == "interpolated":
        extra.append("tracking.wandb.project=${oc.env:WANDB_API_KEY}")
    done = run_command(place, "train", *overrides, *extra, env=env, hooks=hooks)
    assert done.code == 0, done.told
    found = places_with(CANARY, place)
    assert count("a canary key found in no file and no output", found == []), found


def test_the_search_finds_a_planted_key(place: Path) -> None:
    (place / "log").write_bytes(b"\x00" + CANARY.encode() + b"\xff")
    (place / CANARY).mkdir()
    assert len(places_with(CANARY, place)) == 2


def test_no_module_of_the_package_unpickles() -> None:
    calls = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                calls += [f"{path.name} imports {n}" for n in names if n.split(".")[0] in UNSAFE]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                call = f"{node.value.id}.{node.attr}"
                if call in UNSAFE_CALLS:
                    calls.append(f"{path.name} uses {call}")
    assert calls == []


WITHOUT_PICKLE = """
import pickle, sys, torch
def refuse(*_a, **_k): raise AssertionError("pickle was used")
from chronorun.training.checkpoints.folder import newest_good_checkpoint
from pathlib import Path
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
found, _ = newest_good_checkpoint(Path(sys.argv[1]))
print(found.step, len(found.tensors["model"]) > 10)
"""


def test_a_checkpoint_is_read_without_pickle(uninterrupted: Path, count: Figures) -> None:
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_PICKLE, str(uninterrupted)],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )
    assert found.stdout.split() == [str(nano.LAST), "True"], found.stderr
    for path in nano.checkpoint(uninterrupted).iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert path.read_bytes()[:2] not in (b"\x80\x04", b"\x80\x05", b"PK")
    count("checkpoints read with pickle disabled", held=True)
