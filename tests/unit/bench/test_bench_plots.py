"""Curves of a bench: read from the logs, averaged over seeds, drawn to scale."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.bench.bench_sweep import sweep, write_logs

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import CellVerdict, Comparison, VerdictRules
from chronorun.bench.report.curves import (
    MOST_POINTS,
    Curve,
    cell_courses,
    cell_figures,
    course,
    difference_courses,
    read_curves,
    without_curve,
)
from chronorun.bench.report.dots import dots_figure, overview_figure
from chronorun.bench.report.style import OTHER, arm_class, bench_style

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


def test_a_cells_figures_have_labels_with_their_numbers(tmp_path: Path) -> None:
    results = sweep(seeds=2)
    write_logs(results, tmp_path)
    html = cell_figures(read_curves(results, tmp_path), "too_many", "", 0.95)
    labels = re.findall('aria-label="([^"]*)"', html)
    assert [label.partition(".")[0] for label in labels] == [
        "Validation loss over steps",
        "Validation loss minus static&#x27;s over steps",
        "Experts per layer over steps",
    ]
    ends = [r.metrics["val_loss"] for r in results if r.scenario == "too_many"]
    ends = [end for r, end in zip(results[10:20], ends, strict=True) if r.arm == "lifecycle"]
    mean = sum(end for end in ends if end is not None) / 2
    assert f"lifecycle {mean:.4f}" in labels[0]
    assert html.count("<figure>") == 3
    assert html.count('class="key"') == 5


def test_without_curves_there_is_no_figure() -> None:
    assert cell_figures({}, "none", "", 0.95) == ""


def test_arms_keep_their_looks_and_have_different_ones() -> None:
    arms = ("static", "static_max", "static_mean", "loss_free", "lens", "scheduled", "lifecycle",
            "dry_run", "yoked", "sham")  # fmt: skip
    looks = [re.search(rf"\.line\.{arm_class(arm)}{{([^}}]*)}}", bench_style()) for arm in arms]
    assert len({found[1] for found in looks if found}) == len(arms)
    assert arm_class('"><b>') == OTHER


DIFFERENCES = {0: -0.03, 1: -0.01}
RULES = VerdictRules()
COMPARISON = Comparison(
    "static", 2, DIFFERENCES, -0.02, -0.01, -0.03, -0.01, 0.5, 0.5, 1.0, 1.0, 0.01
)
VERDICT = CellVerdict("none", "", "INCONCLUSIVE", "needs 6 seeds", 2, [COMPARISON])


def dots(html: str) -> list[float]:
    return [float(x) for x in re.findall(r'<circle cx="([\d.]+)%"[^>]*class="dot"', html)]


def test_there_is_one_dot_a_seed_at_its_difference() -> None:
    html = dots_figure(VERDICT)
    zero = float(re.search(r'<line x1="([\d.]+)%"[^>]*class="zero"', html)[1])  # type: ignore[index]
    first, second = dots(html)
    assert first < second < zero
    assert (zero - first) / (zero - second) == pytest.approx(3.0, abs=0.01)
    assert "<title>seed 0: −0.03000</title>" in html
    mean = float(re.search(r'<circle cx="([\d.]+)%"[^>]*class="mean"', html)[1])  # type: ignore[index]
    assert mean == pytest.approx((first + second) / 2, abs=0.01)


def test_the_margin_reaches_as_far_to_both_sides_of_zero() -> None:
    html = dots_figure(VERDICT)
    left, width = map(
        float,
        re.search(r'<rect x="([\d.]+)%" width="([\d.]+)%"', html).groups(),  # type: ignore[union-attr]
    )
    zero = float(re.search(r'<line x1="([\d.]+)%"[^>]*class="zero"', html)[1])  # type: ignore[index]
    assert left + width / 2 == pytest.approx(zero, abs=0.01)
    first, second = dots(html)
    assert width == pytest.approx(second - first, abs=0.02)


def test_one_seed_has_a_dot_and_no_interval() -> None:
    alone = replace(COMPARISON, n=1, differences={0: 0.1}, mean=0.1, low=math.nan, high=math.nan)
    html = dots_figure(replace(VERDICT, comparisons=[alone]))
    assert len(dots(html)) == 1
    assert html.count('class="span"') == 1  # that of the key
    assert "nan" not in html


def test_nothing_is_drawn_of_comparisons_without_seeds() -> None:
    empty = replace(COMPARISON, n=0, differences={}, mean=math.nan)
    verdict = replace(VERDICT, comparisons=[empty])
    assert dots_figure(verdict) == ""
    assert overview_figure([verdict], VerdictRules()) == ""


def test_the_overview_shows_every_cell_in_percent() -> None:
    verdicts = [VERDICT, replace(VERDICT, scenario="too_many", variant="lens=on")]
    html = overview_figure(verdicts, VerdictRules(margin=0.02))
    assert html.count('class="mean"') == 2
    assert "too_many, lens=on −1.00% (−1.50 to −0.50)" in html
    assert "within the margin of ±2%" in html


def test_the_overview_draws_cells_without_a_comparison_as_such() -> None:
    empty = replace(COMPARISON, n=0, differences={}, mean=math.nan)
    lost = replace(VERDICT, scenario="too_many", comparisons=[empty])
    html = overview_figure([VERDICT, lost, replace(lost, scenario="x", comparisons=[])], RULES)
    assert html.count('class="mean"') == 1
    assert html.count(">no result</text>") == 2
    assert ">too_many</text>" in html
    assert "too_many no result; x no result" in html
