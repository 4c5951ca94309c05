"""CPU threads where no number is given: OMP_NUM_THREADS, affinity, quotas, shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chronorun.core import threads
from chronorun.core.threads import default_threads, usable_cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that may use eight cores, without a quota; the root of its control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("1:cpu:/x\n0::/job/step\n")
    (tmp_path / "cgroup" / "job" / "step").mkdir(parents=True)
    return tmp_path / "cgroup"


def of(value: str, local_world: int = 1) -> int:
    return default_threads(local_world, {"OMP_NUM_THREADS": value})


@pytest.mark.parametrize(("value", "wanted"), [("1", 1), ("3", 3), (" 4 ", 4), ("8", 8)])
def test_the_variable_counts(eight_cores: Path, value: str, wanted: int) -> None:
    assert of(value) == wanted


@pytest.mark.parametrize("value", ["", "abc", "0", "-2", "1.5", "four", ",", "9" * 5000])
def test_what_is_no_number_of_threads_is_passed_over(eight_cores: Path, value: str) -> None:
    assert of(value) == 8
    assert default_threads(1, {}) == 8


def test_of_a_list_the_outermost_level_counts(eight_cores: Path) -> None:
    assert of("4,2") == 4


def test_there_are_no_more_threads_than_cores(eight_cores: Path) -> None:
    assert of("64") == 8


def test_processes_of_one_machine_share_its_cores(eight_cores: Path) -> None:
    assert [default_threads(n, {}) for n in (1, 2, 3, 16)] == [8, 4, 2, 1]


def test_the_1_that_torchrun_sets_by_itself_does_not_count(eight_cores: Path) -> None:
    assert of("1", local_world=2) == 4
    assert of("3", local_world=2) == 3


def test_the_affinity_counts(eight_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert (default_threads(1, {}), of("4")) == (1, 1)


def test_where_a_system_knows_no_affinity_all_cores_count(
    eight_cores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6


@pytest.mark.parametrize(
    ("place", "quota", "wanted"),
    [
        ("job/step", "200000 100000", 2),
        ("job", "150000 100000", 2),
        (".", "50000 100000", 1),
        ("job", "max 100000", 8),
        ("job", "garbage", 8),
        ("job", "1 0", 8),
    ],
)
def test_the_quota_of_a_container_counts(
    eight_cores: Path, place: str, quota: str, wanted: int
) -> None:
    (eight_cores / place / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == wanted


@pytest.mark.parametrize(("quota", "wanted"), [("300000", 3), ("-1", 8)])
def test_so_does_one_of_the_older_kind(eight_cores: Path, quota: str, wanted: int) -> None:
    (eight_cores / "cpu").mkdir()
    (eight_cores / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (eight_cores / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == wanted
