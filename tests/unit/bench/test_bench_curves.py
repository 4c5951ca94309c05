"""Curves of a bench: read from the logs, averaged over seeds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.bench.bench_sweep import sweep, write_logs

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.report.curves import (
    MOST_POINTS,
    Curve,
    cell_courses,
    course,
    difference_courses,
    read_curves,
    without_curve,
)

JOB = JobResult(0, "job", "lifecycle", "none", "", 0, "completed", "", {"val_loss": 2.0})
KEY = ("none", "", "lifecycle")


def write(folder: Path, *records: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")


def test_losses_and_the_mean_population_are_read_by_step(tmp_path: Path) -> None:
    sizes = {"moe/L0/num_experts": 8, "moe/L1/num_experts": 5, "moe/L0/n_effective": 3.0}
    write(
        tmp_path / "job",
        {"step": 10, "train/loss": 3.0},
        {"step": 20, "val/loss": 2.5} | sizes,
        {"step": 40, "val/loss": 2.25},
    )
    curves = read_curves([JOB], tmp_path)
    assert curves == {KEY: {0: Curve({20: 2.5, 40: 2.25}, {20: 6.5})}}


@pytest.mark.parametrize(
    "bad",
    [
        {"step": "x", "val/loss": 1.0},
        {"step": 1, "val/loss": None},
        {"step": 1, "val/loss": 1.0, "moe/L0/num_experts": "8"},
        {"val/loss": 1.0},
    ],
)
def test_a_checkpoint_that_holds_no_numbers_costs_the_curve(tmp_path: Path, bad: Any) -> None:
    write(tmp_path / "job", bad, {"step": 2, "val/loss": 1.5})
    curves = read_curves([JOB], tmp_path)
    assert curves == {}
    assert without_curve([JOB], curves) == 1


@pytest.mark.parametrize("content", [None, "", "no JSON\n{}\n", "[]\n{}\n", "\x00\xff"])
def test_a_log_that_cannot_be_read_gives_no_curve(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "metrics.jsonl").write_text(content, encoding="latin-1")
    curves = read_curves([JOB], tmp_path)
    assert curves == {}
    assert without_curve([JOB], curves) == 1


def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path) -> None:
    write(tmp_path / "job", {"step": 2, "val/loss": 1.5})
    with (tmp_path / "job" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "val')
    assert read_curves([JOB], tmp_path) == {KEY: {0: Curve({2: 1.5})}}


def test_only_jobs_that_stand_in_a_comparison_have_curves(tmp_path: Path) -> None:
    write(tmp_path / "job", {"step": 2, "val/loss": 1.5})
    curves = read_curves([replace(JOB, status="failed")], tmp_path)
    assert curves == {}
    assert without_curve([replace(JOB, status="failed")], curves) == 0


def test_where_the_lifecycle_made_no_edit_its_curve_stands_for_the_follower(tmp_path: Path) -> None:
    write(tmp_path / "job", {"step": 2, "val/loss": 1.5})
    (tmp_path / "other").mkdir()
    follower = replace(JOB, number=-1, arm="yoked", status="no_edit", folder="other")
    other_seed = replace(follower, seed=1)
    curves = read_curves([follower, other_seed, JOB], tmp_path)
    assert curves["none", "", "yoked"] == {0: Curve({2: 1.5})}
    assert without_curve([follower, other_seed, JOB], curves) == 1


def test_a_course_is_the_mean_with_its_t_interval() -> None:
    found = course("static", [{1: 1.0, 2: 5.0}, {1: 2.0}, {1: 6.0, 3: 0.0}], 0.95)
    assert found is not None
    assert found.seeds == 3
    assert found.mean == [(1.0, 3.0)]
    # t(0.975, 2) = 4.302653, sd of 1, 2, 6 = sqrt(7)
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)
    assert found.low == [(1.0, pytest.approx(3.0 - half))]
    assert found.high == [(1.0, pytest.approx(3.0 + half))]


def test_one_seed_has_an_interval_of_no_width_and_none_has_no_course() -> None:
    found = course("static", [{1: 2.0}, {}], 0.95)
    assert found is not None
    assert found.low == found.mean == found.high == [(1.0, 2.0)]
    assert course("static", [], 0.95) is None
    assert course("static", [{1: 1.0}, {2: 1.0}], 0.95) is None


def test_a_long_curve_is_thinned_and_keeps_its_last_point() -> None:
    found = course("static", [{step: float(step) for step in range(10_001)}], 0.95)
    assert found is not None
    assert MOST_POINTS / 2 < len(found.mean) <= MOST_POINTS + 1
    assert found.mean[-1] == (10_000.0, 10_000.0)


def test_differences_are_paired_by_seed() -> None:
    curves = {
        KEY: {0: Curve({1: 1.0}), 1: Curve({1: 3.0}), 9: Curve({1: 50.0})},
        ("none", "", "static"): {0: Curve({1: 2.0}), 1: Curve({1: 4.0})},
        ("other", "", "yoked"): {0: Curve({1: 7.0})},
    }
    (found,) = difference_courses(curves, "none", "", 0.95)
    assert (found.arm, found.seeds) == ("lifecycle", 2)
    assert found.mean == found.low == found.high == [(1.0, -1.0)]


def test_the_lifecycle_is_drawn_last_and_so_on_top(tmp_path: Path) -> None:
    results = sweep(seeds=2)
    write_logs(results, tmp_path)
    courses = cell_courses(read_curves(results, tmp_path), "none", "", 0.95, "val_loss")
    assert [c.arm for c in courses] == ["static", "static_mean", "loss_free", "yoked", "lifecycle"]
