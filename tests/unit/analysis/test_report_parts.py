"""What the report's pictures are made of: thinned series, scales, lives."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from chronorun.analysis.reading.fields import figure, finite, integer
from chronorun.analysis.reading.thinning import ThinnedColumns, ThinnedLine
from chronorun.analysis.report.charts import Mark, Scale, gathered, short_step
from chronorun.analysis.report.edits import natural, read_edits, short_name
from chronorun.analysis.report.gather import LayerData, Life, lives
from chronorun.analysis.report.pictures import depth, family_order
from chronorun.analysis.report.skeleton import html

finite_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(finite_floats, min_size=1, max_size=300))
def test_a_thinned_line_keeps_its_ends_in_value_and_its_last_point(values: list[float]) -> None:
    line = ThinnedLine(most=16)
    line.extend(enumerate(values))
    points = line.points()
    assert len(points) <= 33
    assert points == sorted(points, key=lambda point: point[0])
    assert points[-1] == (len(values) - 1, values[-1])
    assert {min(values), max(values)} <= {value for _, value in points}
    assert set(points) <= set(enumerate(values))


def test_a_short_line_is_kept_whole() -> None:
    line = ThinnedLine(most=4)
    line.extend([(0, 1.0), (1, 3.0), (2, 2.0)])
    assert line.points() == [(0, 1.0), (1, 3.0), (2, 2.0)]


def test_means_tell_the_course_of_a_long_line() -> None:
    line = ThinnedLine(most=4)
    line.extend((i, float(i % 2)) for i in range(8))
    assert line.means() == []
    line.extend((i, float(i % 2)) for i in range(8, 16))
    assert line.means() == [(1.5, 0.5), (5.5, 0.5), (9.5, 0.5), (13.5, 0.5)]


@given(st.integers(1, 500))
def test_thinned_columns_cover_every_checkpoint_once(checkpoints: int) -> None:
    thinned = ThinnedColumns(most=8)
    for i in range(checkpoints):
        thinned.add(10.0 * (i + 1), {"a": 0.25, "b": 0.75})
    columns = thinned.columns
    assert len(columns) <= 8
    assert sum(column.checkpoints for column in columns) == checkpoints
    edges = [(column.since, column.until) for column in columns]
    assert edges[0][0] == 0.0
    assert edges[-1][1] == 10.0 * checkpoints
    assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))
    assert columns[0].shares() == {"a": 0.25, "b": 0.75}


@given(finite_floats, finite_floats, st.integers(1, 10))
def test_ticks_are_few_and_on_the_scale(one: float, other: float, most: int) -> None:
    scale = Scale(min(one, other), max(one, other))
    ticks = scale.ticks(most)
    room = 1e-6 * max(abs(one), abs(other), 1e-30)
    assert 1 <= len(ticks) + (scale.high > scale.low) <= most + 2
    assert all(scale.low - room <= tick <= scale.high + room for tick in ticks)


@given(st.floats(-10, 10), st.floats(-10, 10), finite_floats)
def test_a_place_lies_within_the_picture(one: float, other: float, value: float) -> None:
    assert 0.0 <= Scale(min(one, other), max(one, other)).at(value) <= 1.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (1200, "1200"), (15_000, "15k"), (2_500_000, "2.5M"), (3e9, "3G"), (0.5, "0.5")],
)
def test_steps_are_short_on_an_axis(value: float, expected: str) -> None:
    assert short_step(value) == expected


def test_a_share_is_coloured_by_its_root() -> None:
    assert [depth(share) for share in (0.0, 1e-9, 0.01, 0.25, 1.0)] == [0, 1, 2, 6, 10]


def test_experts_are_sorted_by_their_numbers() -> None:
    names = ["L0_E10", "L0_E9", "x", "L10_E1", "9", ""]
    assert sorted(names, key=natural) == ["", "9", "L0_E9", "L0_E10", "L10_E1", "x"]


def test_names_are_short_in_a_layer() -> None:
    assert short_name("L2_E9") == "E9"
    assert short_name("something long") == "someth…"


def test_numbers_are_taken_only_where_they_are_numbers() -> None:
    wrong = (True, "1", None, math.nan, math.inf, 1e200, 10**400, [1])
    assert [finite(value) for value in (1, 2.5, *wrong)] == [1.0, 2.5, *[None] * len(wrong)]
    wrong_steps = (True, "1", None, 1.5, 2**60, math.nan)
    assert [integer({"step": value}, "step") for value in (7, 7.0, *wrong_steps)] == [
        7, 7, *[None] * len(wrong_steps),
    ]  # fmt: skip


def test_text_in_a_template_is_cut_named_and_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("{{ text }} {{ long | cut(10) }} {{ long | length }}")
    (tmp_path / "b.html").write_text("{{ long }}")
    shown = html(tmp_path, "a.html", text="<b>\x1b\u202e", long="x" * 50)
    assert shown == "&lt;b&gt;\\x1b\\u202e " + "x" * 9 + "… 50"
    assert len(html(tmp_path, "b.html", long="x" * 100_000)) == 4000


def test_marks_that_would_touch_are_one_with_a_count() -> None:
    marks = [Mark("split", "S", step, f"step {step}") for step in (80, 10, 12, 11)]
    assert list(gathered(marks, Scale(0, 100), 0.05)) == [
        (pytest.approx(0.11), "S3", "step 10, and 2 more"),
        (0.8, "S", "step 80"),
    ]


def test_what_rounds_to_zero_has_no_minus() -> None:
    assert figure(-1e-9, "+.3f") == "+0.000"
    assert figure(-0.25, "+.3f") == "−0.250"
    assert figure(None) == "–"


def layer_with(records: list[dict[str, object]], *experts: str) -> LayerData:
    layer = LayerData(0, experts=set(experts))
    layer.edits = list(read_edits(records))
    layer.lives = lives(layer)
    return layer


def edit(step: int, action: str, before: str, after: str, **fields: object) -> dict[str, object]:
    populations = {"experts_before": before.split(), "experts_after": after.split()}
    return {"step": step, "action": action, "layer_id": 0, **populations, **fields}


def test_lives_follow_births_deaths_and_returns() -> None:
    layer = layer_with(
        [
            edit(10, "SPLIT", "a b", "a b c", seq=0, expert_id="c", parent_id="a"),
            edit(20, "PRUNE", "a b c", "a c", seq=1, expert_id="b"),
            edit(30, "ROLLBACK", "a c", "a b c", seq=2, expert_id="b", undoes=1),
            edit(40, "MERGE", "a b c", "a b", seq=3, expert_id="a", partner_id="c"),
            edit(50, "ROLLBACK", "a b", "a b c", seq=4, expert_id="a", undoes=3),
        ],
        "a",
        "b",
        "c",
    )
    assert layer.lives == {
        "a": [Life(None, "")],
        "b": [Life(None, "", 20, "P"), Life(30, "U")],
        "c": [Life(10, "S", 40, "M"), Life(50, "U")],
    }


def test_an_edit_tells_only_of_the_experts_that_it_names() -> None:
    # A birth waits for the next forward: another expert may fade out meanwhile.
    layer = layer_with([edit(10, "SPLIT", "a b", "a c", expert_id="c", parent_id="a")], "a", "b")
    assert layer.edits[0].born == ("c",)
    assert layer.edits[0].died == ()


def test_children_stand_below_their_parents() -> None:
    layer = layer_with(
        [
            edit(10, "SPLIT", "a b", "a b c", expert_id="c", parent_id="a"),
            edit(20, "SPAWN", "a b c", "a b c d", expert_id="d", parent_id="c"),
            edit(30, "PRUNE", "a b c d", "a c d", expert_id="b"),
        ],
        *"abcd",
    )
    assert family_order(layer, 10) == ["a", "c", "d", "b"]
    assert family_order(layer, 2) == ["a", "c"]


def test_parents_in_a_circle_are_no_endless_tree() -> None:
    records = [
        {"step": 1, "action": "SPAWN", "layer_id": 0, "expert_id": "a", "parent_id": "b"},
        {"step": 2, "action": "SPAWN", "layer_id": 0, "expert_id": "b", "parent_id": "a"},
    ]
    assert set(family_order(layer_with(records), 10)) <= {"a", "b"}
