"""Continuing a run folder that somebody else made calls nothing that the folder names."""

from __future__ import annotations

from pathlib import Path

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures

# Hydra makes what its own nodes name. Whoever types them means it; a folder must not.
CALLS = (
    ("+hydra.callbacks.x._target_=os.mkdir", "+hydra.callbacks.x.path=called"),
    ("++hydra.callbacks.x._target_=os.mkdir", "++hydra.callbacks.x.path=called"),
    ("hydra.run.dir=called",),
    ("hydra/launcher=joblib",),
)


@pytest.fixture
def run(place: Path, uninterrupted: Path) -> Path:
    return nano.copy_until(uninterrupted, place / "outputs" / "x", nano.LAST)


@pytest.mark.parametrize("calls", CALLS, ids=lambda calls: calls[0])
def test_saved_overrides_of_hydra(
    calls: tuple[str, ...],
    run_command: Commands,
    place: Path,
    run: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not (exhaustive or calls == CALLS[0]):
        pytest.skip("needs --exhaustive")
    with (run / ".hydra" / "overrides.yaml").open("a", encoding="utf-8") as file:
        file.writelines(f"- {text}\n" for text in calls)
    done = run_command(place, "train", "resume=outputs/x")
    assert done.code == 0, done.told
    assert count("hostile run folders call nothing", not list(place.rglob("called")))


@pytest.mark.parametrize("name", [".hydra/overrides.yaml", "config.yaml"])
def test_yaml_that_asks_for_objects(
    name: str, run_command: Commands, place: Path, run: Path, count: Figures
) -> None:
    text = "- !!python/object/apply:os.mkdir [called]\n"
    (run / name).write_text(text, encoding="utf-8")
    done = run_command(place, "train", "resume=outputs/x")
    assert done.code == 3, done.told
    wrong = {
        ".hydra/overrides.yaml": "YAML",
        "config.yaml": "a run's configuration (could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.mkdir')",
    }
    told = f"chronorun: error: resume: outputs/x/{name} is not {wrong[name]}; restore the file\n"
    assert done.err == told
    assert count("hostile run folders call nothing", not list(place.rglob("called")))
