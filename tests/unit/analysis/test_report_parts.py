"""The parts of the report's pictures: scales, shares, lives."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from chronorun.analysis.reading.fields import figure, integer
from chronorun.analysis.reading.lineage import Life, Lineage
from chronorun.analysis.reading.records import Decision
from chronorun.analysis.report.charts import Mark, Scale, gathered, short_step
from chronorun.analysis.report.edits import Edit
from chronorun.analysis.report.gather import LayerData
from chronorun.analysis.report.pictures import depth
from chronorun.analysis.report.skeleton import html
from chronorun.core.words import finite

finite_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


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
    lineage = Lineage()
    layer = LayerData(0, experts=set(experts), lineage=lineage)
    for record in records:
        one = msgspec.json.decode(msgspec.json.encode(record), type=Decision)
        lineage.add(one, one.at)
        layer.edits.append(Edit.of(one))
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
    assert layer.family(10) == ["a", "c", "d", "b"]
    assert layer.family(2) == ["a", "c"]


def test_parents_in_a_circle_are_no_endless_tree() -> None:
    records = [
        {"step": 1, "action": "SPAWN", "layer_id": 0, "expert_id": "a", "parent_id": "b"},
        {"step": 2, "action": "SPAWN", "layer_id": 0, "expert_id": "b", "parent_id": "a"},
    ]
    assert set(layer_with(records).family(10)) <= {"a", "b"}
