"""The learning rate: where it starts, peaks and ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from chronorun.config.training import OptimizerConfig, Schedule
from chronorun.training.schedule import learning_rate


def config(schedule: Schedule, **changes: float) -> OptimizerConfig:
    values: dict[str, float] = {"lr": 1e-2, "warmup_steps": 10, "min_lr_ratio": 0.1} | changes
    return OptimizerConfig(schedule=schedule, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", list(Schedule))
def test_warm_up_rises_in_equal_parts_to_the_peak(schedule: Schedule) -> None:
    rates = [learning_rate(step, config(schedule), 100) for step in range(10)]
    assert rates == pytest.approx([1e-3 * (step + 1) for step in range(10)])
    assert learning_rate(9, config(schedule), 100) == 1e-2
    assert learning_rate(10, config(schedule), 100) == pytest.approx(1e-2)


@pytest.mark.parametrize("schedule", [Schedule.cosine, Schedule.wsd])
def test_the_last_step_takes_the_last_rate(schedule: Schedule) -> None:
    assert learning_rate(99, config(schedule), 100) == pytest.approx(1e-3)
    assert learning_rate(98, config(schedule), 100) > 1.0001e-3


def test_cosine_is_half_way_in_the_middle() -> None:
    assert learning_rate(55, config(Schedule.cosine), 101) == pytest.approx(1e-2 * 0.55)


def test_wsd_stays_at_the_peak_and_then_decays_with_the_square_root() -> None:
    wsd = config(Schedule.wsd, wsd_decay_fraction=0.2, min_lr_ratio=0.0)
    assert {learning_rate(step, wsd, 100) for step in range(10, 80)} == {1e-2}
    assert learning_rate(84, wsd, 100) == pytest.approx(1e-2 * (1 - math.sqrt(5 / 20)))
    assert learning_rate(99, wsd, 100) == 0.0


def test_wsd_never_begins_inside_the_warm_up() -> None:
    wsd = config(Schedule.wsd, wsd_decay_fraction=1.0, warmup_steps=50)
    assert learning_rate(49, wsd, 100) == 1e-2
    assert learning_rate(50, wsd, 100) == pytest.approx(1e-2 * (0.1 + 0.9 * (1 - math.sqrt(0.02))))


def test_constant_is_constant_and_no_warm_up_starts_at_the_peak() -> None:
    constant = config(Schedule.constant, warmup_steps=0)
    assert {learning_rate(step, constant, 100) for step in range(200)} == {1e-2}


@given(
    schedule=st.sampled_from(Schedule),
    step=st.integers(0, 300),
    max_steps=st.integers(1, 200),
    warmup=st.integers(0, 250),
    floor=st.floats(0.0, 1.0),
    fraction=st.floats(0.01, 1.0),
)
def test_the_rate_stays_in_its_bounds_and_never_rises_after_the_warm_up(
    schedule: Schedule, step: int, max_steps: int, warmup: int, floor: float, fraction: float
) -> None:
    options = config(schedule, warmup_steps=warmup, min_lr_ratio=floor, wsd_decay_fraction=fraction)
    rate = learning_rate(step, options, max_steps)
    assert 0.0 <= rate <= 1e-2 * (1 + 1e-12)
    if step >= warmup:
        assert rate >= 1e-2 * floor * (1 - 1e-12)
        assert learning_rate(step + 1, options, max_steps) <= rate * (1 + 1e-12)
