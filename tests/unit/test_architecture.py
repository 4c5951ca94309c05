"""The house rules that a machine can keep: imports flow one way, light rooms stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "chronorun"
ORDER = (
    "core",
    "config",
    "data",
    "model",
    "telemetry",
    "governance",
    "lifecycle",
    "training",
    "tracking",
    "analysis",
    "bench",
    "cli",
)
"""Rooms from the foundation up: each may import what stands before it."""
WITHIN = {
    "lifecycle": (("experts",), ("decide",), ("record", "observe"), ("edit",), ("",)),
    "analysis": (("reading",), ("inspect", "replay", "report")),
    "bench": (("evidence",), ("report",), ("run",)),
}
"""The same within a room; rooms in one group do not import each other. ``""``: its own files."""
NO_TORCH = ("lifecycle.experts", "lifecycle.decide", "lifecycle.record", "analysis")


def modules() -> dict[str, Path]:
    """Return all modules of the package by their dotted names below it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _nodes(tree: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    """Yield all nodes; only those that run when the module is imported if ``at_import``."""
    for child in ast.iter_child_nodes(tree):
        is_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if at_import and (is_later or _is_type_checking(child)):
            continue
        yield child
        yield from _nodes(child, at_import=at_import)


@cache
def imports(name: str, *, at_import: bool = False) -> frozenset[str]:
    """Return which modules of the package a module imports."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = set()
    for node in _nodes(tree, at_import=at_import):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    below = {one.removeprefix("chronorun.") for one in found if one.startswith("chronorun.")}
    return frozenset(below & set(MODULES)) - {name}


def heavy_imports(name: str, library: str) -> bool:
    """Return whether a module names a library anywhere, inside functions too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import) and library in [a.name.split(".")[0] for a in node.names]:
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == library:
            return True
    return False


def room_of(name: str) -> str:
    return name.split(".")[0]


def test_every_room_has_its_place() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_rooms_before_it(room: str) -> None:
    later = ORDER[ORDER.index(room) + 1 :]
    wrong = [
        f"{name} imports {module}"
        for name in MODULES
        if room_of(name) == room
        for module in sorted(imports(name))
        if room_of(module) in later
    ]
    assert wrong == []


@pytest.mark.parametrize("room", WITHIN)
def test_within_a_room_imports_flow_one_way(room: str) -> None:
    level_of = {part: level for level, parts in enumerate(WITHIN[room]) for part in parts}

    def part_of(name: str) -> str:
        parts = name.split(".")
        return parts[1] if (PACKAGE / room / parts[1]).is_dir() else ""

    inside = [name for name in MODULES if name.startswith(f"{room}.")]
    assert {part_of(name) for name in inside} <= set(level_of)
    wrong = [
        f"{name} imports {module}"
        for name in inside
        for module in sorted(imports(name))
        if module.startswith(f"{room}.") and part_of(module) != part_of(name)
        if level_of[part_of(module)] >= level_of[part_of(name)]
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: set(imports(name)) for name in MODULES if MODULES[name].name != "__init__.py"}
    # What imports nothing of the rest, or is imported by nothing of it, is in no circle.
    while left:
        needed = set().union(*left.values())
        free = [name for name, needs in left.items() if not needs & set(left) or name not in needed]
        if not free:
            break
        for name in free:
            del left[name]
    assert sorted(left) == []


@pytest.mark.parametrize("prefix", NO_TORCH)
def test_policies_and_readers_reach_no_torch(prefix: str) -> None:
    """Follow everything that is imported, also what functions import later."""
    todo = [name for name in MODULES if name == prefix or name.startswith(f"{prefix}.")]
    seen: dict[str, str] = dict.fromkeys(todo, prefix)
    assert todo
    while todo:
        name = todo.pop()
        assert not heavy_imports(name, "torch"), f"{name}, from {seen[name]}, imports torch"
        for module in imports(name):
            if module not in seen:
                seen[module] = name
                todo.append(module)


@pytest.mark.parametrize(
    "module",
    [
        "chronorun",
        "chronorun.config.run",
        "chronorun.telemetry.snapshots",
        "chronorun.governance.policy",
        "chronorun.lifecycle.experts.registry",
        "chronorun.lifecycle.decide.cycle",
        "chronorun.lifecycle.record.decisions",
        "chronorun.analysis.inspect.output",
        "chronorun.analysis.replay.derive",
        "chronorun.analysis.report.page",
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
