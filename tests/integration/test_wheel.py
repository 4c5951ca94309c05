"""The wheel holds all it needs: built, unpacked elsewhere, run outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    return next(folder.glob("chronorun-*.whl"))


def test_the_wheel_holds_every_config_file_every_template_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"chronorun/{path.relative_to(ROOT)}" for path in ROOT.glob("conf/**/*.yaml")}
    assert expected <= names
    templates = {str(path.relative_to(ROOT)) for path in ROOT.glob("chronorun/**/templates/*")}
    assert {"run.html", "bench.html", "report.md"} <= {Path(name).name for name in templates}
    assert templates <= names
    assert "chronorun/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "conf", "outputs"))]


def test_the_installed_wheel_runs_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(site / "bin" / "chronorun"), *arguments],
            capture_output=True,
            text=True,
            cwd=elsewhere,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = yaml.safe_load(run("train", "--cfg", "job", "model=nano"))
    assert shown["model"]["d_model"] == 64
    sources = run("train", "--info", "searchpath")
    assert str(site / "chronorun" / "conf") in sources.replace("\n", "")
    assert "* tiny" in run("train", "--help")
    assert list(elsewhere.iterdir()) == []
