"""The README says what is true: its commands, its Python, its groups."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chronorun.config.paths import group_options, groups

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_screen_holds_both_commands() -> None:
    first_screen = README.splitlines()[:24]
    assert "pip install -c constraints.txt -e . && chronorun train" in first_screen
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in first_screen


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_its_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    if "LifecycleCoordinator(" in code:
        assert " SPLIT L0_E" in done.stdout


def test_every_option_it_names_for_a_group_exists() -> None:
    named = {group for group in groups() if f"`{group}`" in README}
    checked = {"data", "tokenizer", "model", "router", "optimizer", "lifecycle", "scenario"}
    checked |= {"tracking"}
    assert checked <= named
    for group in sorted(checked):
        row = re.search(rf"^\| `{group}` \| (.*) \|$", README, flags=re.MULTILINE)
        assert row is not None, group
        options = list(re.findall(r"`([a-z_0-9]+)`", row[1]))
        assert sorted(options) == group_options(group), group


def test_its_row_of_the_lifecycles_actions_names_them_and_their_options() -> None:
    row = re.search(r"^\| (`lifecycle/.*`) \| (.*) \|$", README, flags=re.MULTILINE)
    assert row is not None
    actions = re.findall(r"`([a-z/]+)`", row[1])
    assert sorted(actions) == [group for group in groups() if group.startswith("lifecycle/")]
    options = sorted(re.findall(r"`([a-z]+)`", row[2]))
    assert [group_options(action) for action in actions] == [options] * len(actions)


def test_its_generated_tables_are_current(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/readme_tables.py", "--check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_direct_dependency_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    wanted = {re.split(r"[<>=\[]", name)[0] for name in [*project["dependencies"], *extras]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].replace("_", "-").lower() for line in lines if "==" in line}
    assert wanted - pinned == set()
    assert "torch==2.13.0" in lines
