"""Probes by v2's names: from a pathology to a saved and compared surface."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from chronorun.config.scenario import Severity
from chronorun.errors import UserError
from chronorun.governance.probes import (
    PathologyConfig,
    PathologyProbe,
    RecoveryTrajectory,
    ResilienceSurface,
    SeverityLevel,
    TrajectoryPoint,
    compare_surfaces,
)

NUMBERS = {
    "mild": (0.6, 10, 50),
    "moderate": (0.8, 20, 100),
    "severe": (0.95, 50, 150),
    "catastrophic": (1.0, 100, 200),
}


def test_the_levels_are_those_of_the_scenario() -> None:
    assert {level.name: level.value for level in SeverityLevel} == {
        "MILD": "mild",
        "MODERATE": "moderate",
        "SEVERE": "severe",
        "CATASTROPHIC": "catastrophic",
    }
    assert [level.value for level in SeverityLevel] == [level.value for level in Severity]


@pytest.mark.parametrize("level", list(SeverityLevel))
def test_a_level_or_its_word_gives_its_numbers(level: SeverityLevel) -> None:
    ratio, injection, recovery = NUMBERS[level.value]
    expected = PathologyConfig(level.value, ratio, injection, 2, recovery, 0.1)
    assert PathologyConfig.from_severity(level) == expected
    assert PathologyConfig.from_severity(level.value) == expected
    assert PathologyConfig(level, ratio, injection, recovery_window=recovery) == expected  # type: ignore[arg-type]


def test_a_config_of_ones_own_needs_a_name_and_may_leave_the_rest() -> None:
    config = PathologyConfig(severity="mine", injection_duration=7, recovery_window=9)
    assert dataclasses.astuple(config) == ("mine", 0.8, 7, 2, 9, 0.1)
    with pytest.raises(TypeError):
        PathologyConfig()  # type: ignore[call-arg]


def test_an_unknown_level_is_refused_with_a_way_out() -> None:
    with pytest.raises(
        UserError,
        match=r"^probe: severity=awful, expected one of mild, moderate, severe, catastrophic; "
        r"make a PathologyConfig\(severity=\.\.\.\) for one of your own$",
    ):
        PathologyConfig.from_severity("awful")


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("concentration_ratio", 1.5, ">= 0 and <= 1"),
        ("concentration_ratio", math.nan, ">= 0 and <= 1"),
        ("injection_duration", -1, ">= 0"),
        ("n_dominant", 0, ">= 1"),
        ("recovery_window", -1, ">= 0"),
    ],
)
def test_numbers_no_probe_can_be_made_of_are_refused(field: str, value: float, rule: str) -> None:
    with pytest.raises(
        UserError, match=rf"^probe: {field}={value}, expected {rule}; correct the argument$"
    ):
        PathologyConfig("mine", **{field: value})  # type: ignore[arg-type]


def test_a_probe_walks_its_phases_and_says_the_target_shares() -> None:
    probe = PathologyProbe("m", "r")
    assert probe.get_phase(0) == "inactive"
    assert probe.get_routing_override(0, 4) is None
    probe.start_probe(0, PathologyConfig.from_severity(SeverityLevel.MILD), start_step=20)
    assert [probe.get_phase(s) for s in (0, 19, 20, 29, 30, 79, 80)] == [
        *["baseline"] * 2,
        *["injection"] * 2,
        *["recovery"] * 2,
        "complete",
    ]
    forced = [step for step in range(100) if probe.should_override_routing(step)]
    assert forced == list(range(20, 30))
    assert probe.get_routing_override(19, 4) is None
    assert probe.get_routing_override(25, 4) == pytest.approx([0.3, 0.3, 0.2, 0.2])
    assert probe.get_routing_override(25, 2) == [0.5, 0.5]
    assert probe.get_routing_override(25, 1) == [1.0]


def run_probe(
    probe: PathologyProbe, level: SeverityLevel | PathologyConfig, strength: float = 1.0
) -> ResilienceSurface:
    """Record a step before the injection to one after the window, as a training loop would."""
    config = level
    if isinstance(config, SeverityLevel):
        config = PathologyConfig.from_severity(config)
    probe.start_probe(layer_id=1, config=config, start_step=100)
    pressure = 0.0
    for step in range(95, 100 + config.injection_duration + config.recovery_window + 5):
        target = probe.get_routing_override(step, n_experts=8)
        concentrated = sum(target[:2]) if target else 0.25
        pressure = 0.9 * pressure + 0.1 * (strength * concentrated if target else 0.0)
        probe.record_point(
            step=step,
            pressure=pressure,
            lens_scale=pressure / 2,
            n_effective=8 * (1 - concentrated) + 2,
            top2_share=concentrated,
            dead_count=int(concentrated == 1.0),
        )
    probe.end_probe()
    surface = probe.get_surface(1)
    assert surface is not None
    return surface


def test_a_v2_script_runs_from_the_sweep_to_the_comparison(tmp_path: Path) -> None:
    surfaces = {}
    for name, strength in (("teacher", 1.0), ("student", 0.5)):
        probe = PathologyProbe(model_name=name, run_id=f"{name}_run", output_dir=str(tmp_path))
        for level in SeverityLevel:
            surfaces[name] = run_probe(probe, level, strength)
        assert probe.get_surface(0) is None
        assert probe.get_phase(100) == "inactive"
        path = probe.save()
        assert path == tmp_path / f"{name}_run" / "pathology_results.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        assert set(record) == {"model_name", "run_id", "surfaces"}
        assert record["surfaces"] == {"1": json.loads(json.dumps(surfaces[name].to_dict()))}
    teacher, student = surfaces["teacher"], surfaces["student"]
    assert list(teacher.trajectories) == list(NUMBERS)
    points = teacher.trajectories["mild"].points
    # Five of the baseline, one a step of injection and recovery, none of what comes after.
    assert [point.phase for point in points] == [
        *["baseline"] * 5,
        *["injection"] * 10,
        *["recovery"] * 50,
    ]
    compared = compare_surfaces(teacher, student)
    assert compared["severities"] == list(NUMBERS)
    assert compared["pressure_ratio"] == pytest.approx([0.5] * 4)
    assert compared["scale_ratio"] == pytest.approx([0.5] * 4)
    assert all(0 < ratio < 1 for ratio in compared["recovery_ratio"])
    assert compared["student_wins"] is True
    assert compared["governance_efficiency"] == pytest.approx(2.0)


def test_a_saved_file_has_v2s_fields(tmp_path: Path) -> None:
    probe = PathologyProbe("m", "r", tmp_path)
    run_probe(probe, PathologyConfig("own", 0.9, 2, recovery_window=3))
    surface = json.loads(probe.save("mine.json").read_text(encoding="utf-8"))["surfaces"]["1"]
    assert list(surface) == ["model_name", "run_id", "layer_id", "response_curve", "trajectories"]
    trajectory = surface["trajectories"]["own"]
    assert set(trajectory) == {
        *("model_name", "run_id", "layer_id", "severity", "config", "summary", "points")
    }
    assert trajectory["config"] == {
        "severity": "own",
        "concentration_ratio": 0.9,
        "injection_duration": 2,
        "n_dominant": 2,
        "recovery_window": 3,
        "recovery_threshold": 0.1,
    }
    summary = trajectory["summary"]
    assert set(summary) == {
        *("peak_pressure", "peak_lens_scale", "min_neff_during_injection"),
        *("steps_to_recovery", "recovery_achieved"),
    }
    assert surface["response_curve"] == [
        ["own", summary["peak_pressure"], summary["peak_lens_scale"], summary["steps_to_recovery"]]
    ]
    assert [list(point) for point in trajectory["points"]] == [
        [field.name for field in dataclasses.fields(TrajectoryPoint)]
    ] * 10


def test_a_file_holds_numbers_of_numpy_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    probe = PathologyProbe("m", "r", tmp_path)
    probe.start_probe(0, PathologyConfig("own", injection_duration=1))
    probe.record_point(0, np.float32(0.5), math.nan, np.float64(2.0), 0.9, np.int64(1))  # type: ignore[arg-type]
    probe.end_probe()
    surface = probe.get_surface(0)
    assert surface is not None
    surface.trajectories["own"].peak_pressure = np.float64(0.25)
    text = probe.save().read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    trajectory = record["surfaces"]["0"]["trajectories"]["own"]
    (point,) = trajectory["points"]
    assert point == {
        "step": 0,
        "pressure": 0.5,
        "lens_scale": None,
        "n_effective": 2.0,
        "top2_share": 0.9,
        "dead_count": 1,
        "phase": "injection",
    }
    assert trajectory["summary"]["peak_pressure"] == 0.25


def test_recording_and_ending_without_a_probe_does_nothing(tmp_path: Path) -> None:
    probe = PathologyProbe("m", "r", tmp_path)
    probe.record_point(0, 0.1, 0.1, 2.0, 0.5, 0)
    assert probe.end_probe() is None
    record = json.loads(probe.save().read_text(encoding="utf-8"))
    assert record == {"model_name": "m", "run_id": "r", "surfaces": {}}


def test_a_probe_that_was_not_ended_is_dropped() -> None:
    probe = PathologyProbe("m", "r")
    probe.start_probe(0, PathologyConfig("first"))
    probe.record_point(0, 0.9, 0.1, 2.0, 0.5, 0)
    probe.start_probe(0, PathologyConfig("second"))
    ended = probe.end_probe()
    assert ended is not None
    assert (ended.severity, ended.points, probe.get_phase(0)) == ("second", [], "inactive")
    surface = probe.get_surface(0)
    assert surface is not None
    assert list(surface.trajectories) == ["second"]


PHASES = ("baseline", "injection", "recovery")
rows = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 0.5), st.floats(1, 8)), max_size=30
)


def trajectory_of(points: list[tuple[int, float, float, float]]) -> RecoveryTrajectory:
    trajectory = RecoveryTrajectory("m", "r", 0, "own", PathologyConfig("own"))
    for step, (phase, pressure, scale, neff) in enumerate(points):
        trajectory.add_point(
            TrajectoryPoint(step, pressure, scale, neff, 0.5, 0, PHASES[min(phase, 2)])
        )
    return trajectory


@given(rows)
def test_the_summary_is_the_contracts(points: list[tuple[int, float, float, float]]) -> None:
    points.sort(key=lambda row: row[0])
    trajectory = trajectory_of(points)
    trajectory.compute_summary()
    peak_pressure = peak_scale = 0.0
    least, waited, recovered = math.inf, 0, -1
    for phase, pressure, scale, neff in points:
        if phase >= 1:
            peak_pressure, peak_scale = max(peak_pressure, pressure), max(peak_scale, scale)
        if phase == 1:
            least = min(least, neff)
        if phase == 2:
            if pressure < 0.1 and recovered < 0:
                recovered = waited
            waited += 1
    found = dataclasses.astuple(trajectory)[6:]
    expected = (peak_pressure, peak_scale, 0.0 if least == math.inf else least, recovered)
    assert found == (*expected, recovered >= 0)


@pytest.mark.parametrize(
    ("points", "summary"),
    [
        # Never recovered: the threshold itself is not below it.
        ([(1, 0.5, 0.1, 2.0), (2, 0.1, 0.2, 3.0)], (0.5, 0.2, 2.0, -1, False)),
        ([(1, 0.5, 0.1, 2.0), (2, 0.09, 0.2, 3.0)], (0.5, 0.2, 2.0, 0, True)),
        # Calm in the injection is no recovery.
        ([(1, 0.0, 0.1, 2.0), (2, 0.3, 0.2, 3.0)], (0.3, 0.2, 2.0, -1, False)),
        ([(2, 0.3, 0.2, 3.0), (2, 0.0, 0.0, 4.0)], (0.3, 0.2, 0.0, 1, True)),
        ([(0, 0.9, 0.9, 1.0)], (0.0, 0.0, 0.0, -1, False)),
        ([], (0.0, 0.0, 0.0, -1, False)),
    ],
    ids=["never", "at once", "calm injection", "no injection", "baseline only", "no points"],
)
def test_summaries_at_the_edges(
    points: list[tuple[int, float, float, float]], summary: tuple[Any, ...]
) -> None:
    trajectory = trajectory_of(points)
    trajectory.compute_summary()
    assert dataclasses.astuple(trajectory)[6:] == summary


def test_a_summary_can_be_made_again() -> None:
    trajectory = trajectory_of([(1, 0.5, 0.1, 2.0), (2, 0.05, 0.1, 4.0)])
    trajectory.compute_summary()
    assert trajectory.recovery_achieved
    trajectory.points[-1].pressure = 0.2
    trajectory.compute_summary()
    assert (trajectory.recovery_achieved, trajectory.steps_to_recovery) == (False, -1)


def test_figures_set_by_hand_stay_without_points() -> None:
    trajectory = RecoveryTrajectory("m", "r", 0, "mild", PathologyConfig("mild"), peak_pressure=0.3)
    trajectory.compute_summary()
    assert trajectory.peak_pressure == 0.3


Row = tuple[str, float, float, int]


def surface_of(*rows: Row) -> ResilienceSurface:
    surface = ResilienceSurface("m", "r", 0)
    for severity, pressure, scale, steps in rows:
        surface.add_trajectory(
            RecoveryTrajectory(
                *("m", "r", 0, severity, PathologyConfig(severity)),
                peak_pressure=pressure,
                peak_lens_scale=scale,
                steps_to_recovery=steps,
                recovery_achieved=steps >= 0,
            )
        )
    return surface


def test_the_response_curve_goes_from_mild_to_catastrophic() -> None:
    mine, severe = ("mine", 0.1, 0.1, 1), ("severe", 0.8, 0.5, -1)
    mild, worst = ("mild", 0.3, 0.2, 10), ("catastrophic", 0.9, 0.5, 99)
    surface = surface_of(mine, worst, ("mild", 0.9, 0.9, 9), severe, mild)
    assert surface.get_response_curve() == [mild, severe, worst, mine]
    assert ResilienceSurface("m", "r", 0).get_response_curve() == []


row_values = st.tuples(
    st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.02, 0.5]), st.integers(-1, 40)
)
curves = st.dictionaries(st.sampled_from(list(NUMBERS)), row_values)


@given(curves, curves)
def test_a_comparison_is_student_over_teacher(
    teacher: dict[str, tuple[float, float, int]], student: dict[str, tuple[float, float, int]]
) -> None:
    found = compare_surfaces(
        surface_of(*((word, *row) for word, row in teacher.items())),
        surface_of(*((word, *row) for word, row in student.items())),
    )
    both = [word for word in NUMBERS if word in teacher and word in student]
    assert found["severities"] == list(found["by_severity"]) == both
    for place, name in enumerate(("pressure_ratio", "scale_ratio", "recovery_ratio")):
        expected = [
            student[word][place] / teacher[word][place]
            for word in both
            if teacher[word][place] > 0 and student[word][place] >= 0
        ]
        assert found[name] == expected
        aligned = [found["by_severity"][word][name] for word in both]
        assert [ratio for ratio in aligned if ratio is not None] == expected
        mean = None if not expected else pytest.approx(sum(expected) / len(expected))
        assert found[f"mean_{name}"] == mean
    json.dumps(found, allow_nan=False)


def test_a_ratio_without_a_value_is_told_apart_from_one_that_is_zero() -> None:
    teacher = surface_of(("mild", 0.0, 0.0, -1), ("severe", 0.5, 0.2, 10))
    student = surface_of(("mild", 0.2, 0.1, 5), ("severe", 0.0, 0.0, 0))
    zeros = {"pressure_ratio": 0.0, "scale_ratio": 0.0, "recovery_ratio": 0.0}
    assert compare_surfaces(teacher, student) == {
        "severities": ["mild", "severe"],
        "pressure_ratio": [0.0],
        "scale_ratio": [0.0],
        "recovery_ratio": [0.0],
        **{f"mean_{name}": value for name, value in zeros.items()},
        "by_severity": {"mild": dict.fromkeys(zeros), "severe": zeros},
        "governance_efficiency": None,
        "student_wins": True,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_ratio(value: float) -> None:
    good, bad = surface_of(("mild", 0.5, 0.5, 5)), surface_of(("mild", value, 0.5, 5))
    for pair in ((good, bad), (bad, good), (bad, bad)):
        json.dumps(compare_surfaces(*pair), allow_nan=False)
        assert compare_surfaces(*pair)["pressure_ratio"] == []


def test_surfaces_with_nothing_in_common_compare_to_nothing() -> None:
    found = compare_surfaces(surface_of(("mild", 0.5, 0.5, 5)), ResilienceSurface("s", "r", 0))
    assert found["severities"] == found["pressure_ratio"] == []
    assert found["mean_scale_ratio"] is found["student_wins"] is None
