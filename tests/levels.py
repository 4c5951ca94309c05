"""How much is tested: the quick tests, ``--whole``, or ``--exhaustive``; and in how many processes.

A test marked ``whole`` or ``exhaustive`` is skipped below that level. ``tries(quick, whole,
exhaustive)`` says with how many numbers a test is tried at each level.
"""

from __future__ import annotations

from typing import Any

import pytest

LEVELS = ("whole", "exhaustive")
WORKERS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chronorun")
    group.addoption("--whole", action="store_true", help="run the long tests, too")
    group.addoption(
        "--exhaustive", action="store_true", help="run all, 40 minutes of broken runs included"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "whole: needs --whole")
    config.addinivalue_line("markers", "exhaustive: needs --exhaustive")
    config.addinivalue_line(
        "markers", "tries(quick, whole, exhaustive): how many numbers a test is tried with"
    )


def level(config: pytest.Config) -> int:
    """Return how much is run: 0 the quick tests, 1 with ``--whole``, 2 with ``--exhaustive``."""
    if config.getoption("--exhaustive"):
        return 2
    return 1 if config.getoption("--whole") else 0


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share a run of all tests among worker processes, unless ``-n`` says otherwise."""
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    option: Any = config.option
    names_no_path = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if option.numprocesses is None and option.dist == "no" and names_no_path and not option.usepdb:
        option.numprocesses = WORKERS
    if option.numprocesses and option.dist == "no":
        # Files share runs and are long or short: whole files, in the order of their folders, so
        # that the short ones come last.
        option.dist, option.loadscopereorder = "loadfile", False


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("tries")
    if marker is None:
        return
    marks = ((), pytest.mark.whole, pytest.mark.exhaustive)
    needed = [sum(number >= tries for tries in marker.args) for number in range(marker.args[-1])]
    numbers = [
        pytest.param(number, marks=marks[lowest])
        for number, lowest in enumerate(needed)
        if lowest <= level(metafunc.config)
    ]
    metafunc.parametrize("number", numbers)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = LEVELS[level(config) :]
    for item in items:
        for name in missing:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"needs --{name}"))
                break
