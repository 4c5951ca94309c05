"""What passed of the exhaustive tests is kept, and what was tried is counted and shown.

With ``--exhaustive``, what passed before is kept in pytest's cache (a JSON file) and not run again
unless the package changed; ``--cache-clear`` starts anew. ``--figures FILE`` writes the table of
what was tried and what held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from levels import level

from reliability.figures import Figures, code_hash, report

FOLDER = "reliability"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chronorun")
    group.addoption("--figures", metavar="FILE", help="write what was tried and what held")


def pytest_configure(config: pytest.Config) -> None:
    # Worker processes report to the one that started them, and that one keeps.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Kept(config))


def read_kept(config: pytest.Config) -> dict[str, Any]:
    """Return the figures of the tests that passed before, by their ids."""
    assert config.cache is not None
    return dict(config.cache.get(f"{FOLDER}/{code_hash()}", {}))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if level(config) < 2:
        return
    kept = read_kept(config)
    for item in items:
        if item.nodeid in kept:
            item.add_marker(pytest.mark.skip(reason="passed before"))


class Kept:
    """Sums up the figures of all tests, in the process that gets the reports of all."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.keeps = level(config) == 2
        self.figures = Figures()
        self.passed: dict[str, bool] = {}
        if self.keeps:
            for counts in read_kept(config).values():
                self.figures.add_all(counts)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if f"/{FOLDER}/" not in f"/{report.nodeid}":
            return
        if report.when == "call":
            self.passed[report.nodeid] = report.passed
        elif report.when == "teardown" and report.nodeid in self.passed:
            counts = dict(report.user_properties).get("figures", {})
            self.figures.add_all(counts)
            if self.keeps and self.passed[report.nodeid]:
                kept = read_kept(self.config) | {report.nodeid: counts}
                self.config.cache.set(f"{FOLDER}/{code_hash()}", kept)  # type: ignore[union-attr]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.figures.tried:
            terminalreporter.section("tried and held")
            terminalreporter.write_line(self.figures.table())
        if target := self.config.getoption("--figures"):
            Path(target).write_text(report(self.figures), encoding="utf-8")
