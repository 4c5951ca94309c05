"""The house rules that a machine can keep: imports flow one way, light rooms stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "chronorun"
ORDER = (
    "config",
    "data",
    "model",
    "telemetry",
    "governance",
    "lifecycle",
    "training",
    "tracking",
    "analysis",
    "cli",
)
# Training logs through the Tracker protocol; a protocol is an interface, not a room it depends on.
ALLOWED = {("training", "chronorun.tracking.protocol")}


def imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module)
    return {name for name in modules if name.startswith("chronorun.")}


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_rooms_to_its_left(room: str) -> None:
    to_the_right = ORDER[ORDER.index(room) + 1 :]
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for module in sorted(imported_modules(path))
        if module.split(".")[1] in to_the_right and (room, module) not in ALLOWED
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ["core"])
def test_what_every_room_uses_imports_no_room(room: str) -> None:
    wrong = [
        f"{path.name} imports {module}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for module in sorted(imported_modules(path))
        if module.split(".")[1] in ORDER
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [
        "chronorun",
        "chronorun.config.run",
        "chronorun.telemetry.snapshots",
        "chronorun.governance.policy",
        "chronorun.lifecycle.registry",
        "chronorun.lifecycle.counters",
        "chronorun.lifecycle.similarity",
        "chronorun.cli.main",
    ],
)
def test_light_modules_import_no_heavy_library(module: str) -> None:
    code = (
        f"import sys, {module}; print(sorted({{'torch', 'datasets', 'wandb'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_unpickles_or_instantiates_from_config() -> None:
    words = ("import pickle", "torch.load(", "hydra.utils.instantiate", "eval(")
    found = [
        f"{path.relative_to(PACKAGE)}: {word}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for word in words
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(word) or f" {word}" in line
    ]
    assert found == []
