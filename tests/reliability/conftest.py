"""Options, counts and fixtures of the reliability tests.

Plain ``pytest`` runs the quick subset. ``--whole`` runs all of it: what passed before is kept in
pytest's cache (a JSON file) and not run again unless the package changed; ``--cache-clear`` starts
anew. ``--figures FILE`` writes the table of what was tried and what held.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reliability import nano
from reliability.commands import Commands
from reliability.figures import Figures, code_hash, report

KEPT = "reliability/{}"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--whole", action="store_true", help="run all, not only the quick subset")
    group.addoption("--figures", metavar="FILE", help="write what was tried and what held")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "whole: too long for the quick subset")
    config.addinivalue_line("markers", "tries(quick, whole): how many numbers a test is tried with")


def is_whole(config: pytest.Config) -> bool:
    # Unknown when pytest was started above this folder.
    return bool(config.getoption("--whole", default=False))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("tries")
    if marker is not None:
        metafunc.parametrize("number", range(marker.args[is_whole(metafunc.config)]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not is_whole(config):
        skip = pytest.mark.skip(reason="needs --whole")
        for item in items:
            if item.get_closest_marker("whole"):
                item.add_marker(skip)
        return
    for nodeid in _kept(config):
        for item in items:
            if item.nodeid == nodeid:
                item.add_marker(pytest.mark.skip(reason="passed before"))


def _kept(config: pytest.Config) -> dict[str, Any]:
    assert config.cache is not None
    return dict(config.cache.get(KEPT.format(code_hash()), {}))


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Count tries: ``assert count("what was tried", held)``."""
    figures = Figures()
    yield figures
    request.node.user_properties.append(("figures", figures.counts()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    if outcome.when == "call":
        item.stash[_PASSED] = outcome.passed
    if outcome.when == "teardown" and item.stash.get(_PASSED, False) and is_whole(item.config):
        kept = _kept(item.config) | {item.nodeid: dict(item.user_properties).get("figures", {})}
        item.config.cache.set(KEPT.format(code_hash()), kept)  # type: ignore[union-attr]
    return outcome


_PASSED: pytest.StashKey[bool] = pytest.StashKey()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = Figures()
    if is_whole(config):
        for counts in _kept(config).values():
            figures.add_all(counts)
    kinds = ("failed",) if is_whole(config) else ("passed", "failed")
    for kind in kinds:
        for done in terminalreporter.stats.get(kind, []):
            figures.add_all(dict(done.user_properties).get("figures", {}))
    if figures.tried:
        terminalreporter.section("tried and held")
        terminalreporter.write_line(figures.table())
    if target := config.getoption("--figures", default=None):
        Path(target).write_text(report(figures), encoding="utf-8")


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    return is_whole(request.config)


@pytest.fixture(scope="session")
def run_command(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Commands]:
    commands = Commands(cache_dir)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What the runs of these tests are started with, edits of each kind among it."""
    return (*nano.RUN, nano.write_plan(tmp_path_factory.mktemp("plan")))


@pytest.fixture(scope="session")
def uninterrupted(
    run_command: Commands, overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that nothing befell, with a checkpoint of each step."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    often = ("training.checkpoint_interval=1", "training.keep_last=100")
    done = run_command(folder, "train", *overrides, *often)
    assert done.code == 0, done.told
    return folder / "outputs" / "x"


@pytest.fixture(scope="session")
def moments(
    run_command: Commands, overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[int]]:
    """How many moments a run has: in each of its saves, edits and steps, and (``""``) in all."""
    folder = tmp_path_factory.mktemp("moments")
    hook = ("count_moments", {"path": str(folder / "counts")})
    done = run_command(folder, "train", *overrides, hooks=[hook])
    assert done.code == 0, done.told
    return dict(json.loads((folder / "counts").read_text(encoding="utf-8")))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to run in, gone afterwards: hundreds of runs do not fit gladly."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)
