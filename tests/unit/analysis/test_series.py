"""Long series kept small."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, strategies as st

from chronorun.analysis.reading.series import Series, ThinnedColumns

finite_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


def series(most: int, values: Sequence[float]) -> Series:
    found = Series(most)
    for step, value in enumerate(values):
        found.add(step, value)
    return found


@given(st.lists(finite_floats, min_size=1, max_size=300))
def test_a_thinned_series_keeps_its_ends_in_value_and_its_last_point(values: list[float]) -> None:
    line = series(16, values)
    points = line.points()
    assert len(points) <= 33
    assert points == sorted(points, key=lambda point: point[0])
    assert points[-1] == (len(values) - 1, values[-1])
    assert {min(values), max(values)} <= {value for _, value in points}
    assert set(points) <= set(enumerate(values))


def test_a_short_line_is_kept_whole() -> None:
    line = series(4, [1.0, 3.0, 2.0])
    assert line.points() == [(0, 1.0), (1, 3.0), (2, 2.0)]


def test_means_tell_the_course_of_a_long_line() -> None:
    assert series(4, [float(i % 2) for i in range(8)]).means() == []
    assert series(4, [float(i % 2) for i in range(16)]).means() == [
        (1.5, 0.5),
        (5.5, 0.5),
        (9.5, 0.5),
        (13.5, 0.5),
    ]


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
