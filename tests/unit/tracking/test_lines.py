from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from chronorun.core.text import one_line
from chronorun.tracking.lines import duration, experts_alive, progress_line, tokens_rate

STEERED = {
    "train/loss": 1.23456,
    "val/loss": 1.5,
    "tokens_per_second": 12_345.0,
    "moe/L0/num_experts": 16,
    "moe/L0/dead_expert_count": 3,
    "moe/L10/num_experts": 16,
    "moe/L10/dead_expert_count": 0,
    "moe/L0/pressure": 0.12,
    "moe/L10/pressure": 0.31,
    "moe/L0/lens_scale": 0.05,
    "moe/L10/lens_scale": 0.0,
}


def test_a_wide_line_shows_every_figure() -> None:
    line = progress_line(60, 600, STEERED, eta_seconds=75, width=120)
    assert line == (
        "step 60/600  loss 1.235  val 1.500  12.3k tok/s  eta 1:15  experts 29/32"
        "  pressure 0.31  lens 0.05"
    )


def test_a_narrow_line_drops_time_left_and_speed_first() -> None:
    assert progress_line(60, 600, STEERED, eta_seconds=75) == (
        "step 60/600  loss 1.235  val 1.500  experts 29/32  pressure 0.31  lens 0.05"
    )
    assert progress_line(60, 600, STEERED, width=24) == "step 60/600  loss 1.235"


def test_what_does_not_steer_is_not_shown() -> None:
    calm = STEERED | dict.fromkeys(
        ("moe/L0/pressure", "moe/L10/pressure", "moe/L0/lens_scale"), 0.0
    )
    assert progress_line(60, 600, calm, eta_seconds=math.nan) == (
        "step 60/600  loss 1.235  val 1.500  12.3k tok/s  experts 29/32"
    )


def test_experts_alive_needs_telemetry() -> None:
    assert experts_alive({"train/loss": 1.0}) == ""


@given(
    st.integers(0, 10**7),
    st.dictionaries(st.sampled_from(sorted(STEERED)), st.floats(0, 1e9)),
    st.floats(0, 1e7) | st.just(math.nan),
    st.integers(0, 200),
)
def test_a_line_never_exceeds_its_width(
    step: int, metrics: dict[str, float], eta: float, width: int
) -> None:
    assert len(progress_line(step, 10**7, metrics, eta_seconds=eta, width=width)) <= width


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3661, "1:01:01"), (math.inf, "")]
)
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(870.0, "870 tok/s"), (12_345.0, "12.3k tok/s"), (1.2e6, "1.2M tok/s")]
)
def test_speeds_stay_short(rate: float, text: str) -> None:
    assert tokens_rate(rate) == text


def test_control_and_bidi_characters_are_written_out() -> None:
    assert one_line("a\x1b[31mb\u202ec\r\nd  e") == "a\\x1b[31mb\\u202ec d  e"


@given(st.text())
def test_one_line_is_always_one_printable_line(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
