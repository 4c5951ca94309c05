"""Pictures of a bench: arms over steps, dots to scale, all cells at once."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from unit.bench.bench_sweep import sweep, write_logs

from chronorun.analysis.report.charts import RowChart
from chronorun.analysis.report.svg import draw
from chronorun.bench.evidence.verdicts import CellVerdict, Comparison, VerdictRules
from chronorun.bench.report.charts import (
    OTHER,
    arm_look,
    cell_charts,
    dots,
    overview,
)
from chronorun.bench.report.curves import read_curves


def test_a_cells_pictures_have_labels_with_their_numbers(tmp_path: Path) -> None:
    results = sweep(seeds=2)
    write_logs(results, tmp_path)
    found = cell_charts(read_curves(results, tmp_path), "too_many", "", 0.95)
    labels = [chart.label for chart in found]
    assert [label.partition(".")[0] for label in labels] == [
        "Validation loss over steps",
        "Validation loss minus static's over steps",
        "Experts per layer over steps",
    ]
    ends = [r.metrics["val_loss"] for r in results if r.scenario == "too_many"]
    ends = [end for r, end in zip(results[10:20], ends, strict=True) if r.arm == "lifecycle"]
    mean = sum(end for end in ends if end is not None) / 2
    assert f"lifecycle {mean:.4f}" in labels[0]
    assert [(line.name, line.note) for line in found[0].lines] == [
        (arm, "2 seeds") for arm in ("static", "static_mean", "loss_free", "yoked", "lifecycle")
    ]


def test_without_curves_there_is_no_picture() -> None:
    assert cell_charts({}, "none", "", 0.95) == []


def test_arms_keep_their_looks_and_have_different_ones() -> None:
    arms = ("static", "static_max", "static_mean", "loss_free", "lens", "scheduled", "lifecycle",
            "dry_run", "yoked", "sham")  # fmt: skip
    looks = {(arm_look(arm).colour, arm_look(arm).dashes) for arm in arms}
    assert len(looks) == len(arms)
    assert arm_look('"><b>') == OTHER


DIFFERENCES = {0: -0.03, 1: -0.01}
RULES = VerdictRules()
COMPARISON = Comparison(
    "static", 2, DIFFERENCES, -0.02, -0.01, -0.03, -0.01, 0.5, 0.5, 1.0, 1.0, 0.01
)
VERDICT = CellVerdict("none", "", "INCONCLUSIVE", "needs 6 seeds", 2, [COMPARISON])


def drawn(verdict: CellVerdict) -> tuple[RowChart, str]:
    """Return a cell's differences, as described and as SVG."""
    chart = dots(verdict)
    assert chart is not None
    return chart, draw(chart)


def places(html: str, kind: str) -> list[float]:
    return [float(x) for x in re.findall(rf'<circle cx="([\d.]+)%"[^>]*class="{kind}"', html)]


def zero_line(html: str) -> float:
    found = re.search(r'<line x1="([\d.]+)%"[^>]*class="zero"', html)
    assert found is not None
    return float(found[1])


def test_there_is_one_dot_a_seed_at_its_difference() -> None:
    _, html = drawn(VERDICT)
    zero = zero_line(html)
    first, second = places(html, "dot")
    assert first < second < zero
    assert (zero - first) / (zero - second) == pytest.approx(3.0, abs=0.01)
    assert "<title>seed 0: −0.03000</title>" in html
    (mean,) = places(html, "mean")
    assert mean == pytest.approx((first + second) / 2, abs=0.01)


def test_the_margin_reaches_as_far_to_both_sides_of_zero() -> None:
    _, html = drawn(VERDICT)
    left, width = map(
        float,
        re.search(r'<rect x="([\d.]+)%" width="([\d.]+)%"', html).groups(),  # type: ignore[union-attr]
    )
    zero = zero_line(html)
    assert left + width / 2 == pytest.approx(zero, abs=0.01)
    first, second = places(html, "dot")
    assert width == pytest.approx(second - first, abs=0.02)


def test_one_seed_has_a_dot_and_no_interval() -> None:
    alone = replace(COMPARISON, n=1, differences={0: 0.1}, mean=0.1, low=math.nan, high=math.nan)
    chart, html = drawn(replace(VERDICT, comparisons=[alone]))
    assert len(places(html, "dot")) == 1
    assert chart.segments == []
    assert "nan" not in html


def test_nothing_is_drawn_of_comparisons_without_seeds() -> None:
    empty = replace(COMPARISON, n=0, differences={}, mean=math.nan)
    verdict = replace(VERDICT, comparisons=[empty])
    assert dots(verdict) is None
    assert overview([verdict], VerdictRules()) is None


def test_the_overview_shows_every_cell_in_percent() -> None:
    verdicts = [VERDICT, replace(VERDICT, scenario="too_many", variant="lens=on")]
    chart = overview(verdicts, VerdictRules(margin=0.02))
    assert chart is not None
    html = draw(chart)
    assert html.count('class="mean"') == 2
    assert "too_many, lens=on −1.00% (−1.50 to −0.50)" in html
    assert "within the margin of ±2%" in chart.caption


def test_the_overview_draws_cells_without_a_comparison_as_such() -> None:
    empty = replace(COMPARISON, n=0, differences={}, mean=math.nan)
    lost = replace(VERDICT, scenario="too_many", comparisons=[empty])
    chart = overview([VERDICT, lost, replace(lost, scenario="x", comparisons=[])], RULES)
    assert chart is not None
    html = draw(chart)
    assert html.count('class="mean"') == 1
    assert html.count(">no result</text>") == 2
    assert ">too_many</text>" in html
    assert "too_many no result; x no result" in html
