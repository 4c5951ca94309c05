"""A row says what was found, whether its goals hold, and nothing where the baseline was noisy."""

from __future__ import annotations

from pathlib import Path

import pytest
from performance.report import cells, earlier, merged, text_table, write
from performance.rows import Row, ratio_row, summary_row, without_goals
from performance.timing import growth_exponent, interleave, means, turned

QUIET, NOISY = [1.0, 1.1, 1.2], [1.0, 1.1, 1.6]


def test_a_ratio_is_the_median_of_paired_rounds() -> None:
    row = ratio_row("step", "a / b", [2.0, 3.3, 4.8], QUIET)
    assert (row.value, row.least, row.largest) == pytest.approx((3.0, 2.0, 4.0))
    assert row.baseline_spread == pytest.approx(1.2)
    assert row.verdict() == "no goal"


def test_a_noisy_baseline_is_refused_instead_of_reported() -> None:
    row = ratio_row("step", "a / b", [0.1, 0.1, 0.1], NOISY, must=1.0, aim=0.5)
    assert (row.value, row.least, row.largest) == (None, None, None)
    assert row.verdict() == "refused: noisy (baseline varied 1.60 times)"
    assert cells(row)[1] == "refused: noisy (baseline varied 1.60 times)"
    assert row.holds()


@pytest.mark.parametrize(
    ("value", "verdict", "holds"),
    [
        (0.9, "holds, aim too", True),
        (1.5, "holds, 1.50 of the aim", True),
        (3.0, "MISSES: 1.50 of the must", False),
    ],
)
def test_a_verdict_says_by_how_much(value: float, verdict: str, holds: bool) -> None:
    row = Row("step", "a", "x", value, must=2.0, aim=1.0)
    assert (row.verdict(), row.holds()) == (verdict, holds)


def test_a_goal_may_be_the_least_allowed() -> None:
    row = Row("gpu", "tokens/s", "x", 0.6, must=0.75, aim=0.9, at_least=True)
    assert row.verdict() == "MISSES: 0.80 of the must"
    assert cells(row) == ("tokens/s", "0.6", ">= 0.75", ">= 0.9", "MISSES: 0.80 of the must")


def test_a_goal_of_nothing_at_all_can_be_missed() -> None:
    row = Row("gpu", "host syncs in a step", "x", 1.0, must=0.0)
    assert row.verdict() == "MISSES: 1 where the must is 0"
    assert Row("gpu", "host syncs in a step", "x", 0.0, must=0.0).verdict() == "holds"


def test_a_missed_must_says_what_stands_in_the_way() -> None:
    missed = Row("g", "a", "x", 3.0, must=2.0, note="ten rounds", limit="memory")
    assert missed.remark() == "ten rounds; memory"
    assert "ten rounds; memory" in text_table([missed])
    met = Row("g", "a", "x", 1.0, must=2.0, note="ten rounds", limit="memory")
    assert met.remark() == "ten rounds"


def test_groups_measured_before_are_kept_on_the_same_machine(tmp_path: Path) -> None:
    machine, rows = {"cpu": "one", "cores": 2}, [Row("g", "a", "x", 3.0, must=2.0, limit="memory")]
    words = ("date", "command", "tries", "seconds", "load_before", "load_after")
    groups = {"g": dict.fromkeys(words, "1") | {"quick": False}}
    assert earlier(tmp_path / "page", machine, False) == ({}, [])
    write(tmp_path / "page", {"machine": machine, "groups": groups}, rows)
    assert earlier(tmp_path / "page", machine, False) == (groups, rows)
    assert earlier(tmp_path / "page", machine, True) == ({}, [])
    assert earlier(tmp_path / "page", machine | {"cpu": "other"}, False) == ({}, [])


def test_new_rows_take_the_place_of_those_of_their_group() -> None:
    kept = [Row(group, name, "x", 1.0) for group, name in (("a", "1"), ("a", "2"), ("gone", "3"))]
    new = [Row("b", "4", "x", 2.0), Row("a", "1", "x", 2.0)]
    assert merged(new[:1], kept, ["a", "b"]) == [*kept[:2], new[0]]
    assert merged(new, kept, ["b", "a"]) == new


def test_a_row_without_goals_judges_nothing() -> None:
    (row,) = without_goals([Row("step", "a", "x", 3.0, must=2.0, aim=1.0)])
    assert (row.verdict(), row.holds()) == ("no goal", True)


def test_the_table_shows_each_unit_and_puts_a_note_below_its_figure() -> None:
    rows = [
        summary_row("g", "share", [0.01, 0.02, 0.03], QUIET, unit="%", must=0.02, note="why"),
        Row("g", "seconds", "s", 12.3),
    ]
    assert text_table(rows).splitlines() == [
        "  share    2.00% (1.00% to 3.00%)  <= 2.00%       holds",
        "      why",
        "  seconds  12.30 s                                no goal",
    ]


def test_contenders_take_turns_in_a_turning_order() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = interleave(steps, rounds=3, warm_up=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert turned(["a", "b"], 3) == ["b", "a"]


def test_a_round_is_the_mean_of_its_turns() -> None:
    assert means([1.0, 3.0, 2.0, 4.0], 2) == [2.0, 3.0]
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = interleave(steps, rounds=2, turns=2, warm_up=0)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}


def test_growth_is_the_slope_in_logarithms() -> None:
    assert growth_exponent([4, 16, 64], [0.1, 1.6, 25.6]) == pytest.approx(2.0)
