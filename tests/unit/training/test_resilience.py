"""Recovery from a collapse as ``resilience.json`` has it: by the layer's own baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chronorun.governance import PathologyConfig, RecoveryTrajectory
from chronorun.training.scenarios.resilience import LayerResilience


def seen_by(config: PathologyConfig, start_step: int, *n_effective: float) -> LayerResilience:
    """Record a checkpoint each 10 steps, from step 10 on."""
    trajectory = RecoveryTrajectory("m", "r", 3, config.severity, config)
    seen = LayerResilience(trajectory, start_step)
    for number, value in enumerate(n_effective, start=1):
        seen.record(10 * number, 0.1 * number, 0.05 * number, value, 0.5, number % 2)
    return seen


MILD = PathologyConfig.from_severity("mild")


def test_a_window_belongs_to_the_phase_of_its_last_step() -> None:
    seen = seen_by(MILD, 20, *[4.0] * 9)
    assert [point["phase"] for point in seen.points()] == [
        *["baseline"] * 2,
        "injection",
        *["recovery"] * 5,
        "complete",
    ]


def test_recovery_counts_from_the_end_of_the_injection() -> None:
    seen = seen_by(MILD, 20, 4.0, 4.0, 2.0, 3.0, 3.6, 4.0)
    assert (seen.recovery_checkpoints, seen.recovery_steps) == (2, 20)


def test_recovery_after_the_window_is_still_seen() -> None:
    seen = seen_by(MILD, 20, 4.0, 4.0, 2.0, *[3.0] * 5, 4.0)
    assert (seen.recovery_checkpoints, seen.recovery_steps) == (6, 60)


@pytest.mark.parametrize("values", [(4.0, 4.0, 2.0, 2.0), (4.0, 4.0, 2.0), ()])
def test_a_layer_that_never_recovers_is_censored(values: tuple[float, ...]) -> None:
    seen = seen_by(MILD, 20, *values)
    assert (seen.recovery_checkpoints, seen.recovery_steps) == (None, None)


def test_without_a_baseline_nothing_can_be_said_of_recovery() -> None:
    seen = seen_by(MILD, 0, 2.0, 4.0)
    assert seen.baseline_n_effective is None
    assert seen.recovery_checkpoints is None


def test_the_file_keeps_its_fields_in_their_order(tmp_path: Path) -> None:
    seen = seen_by(MILD, 10, 4.0, 2.0, 4.0)
    seen.save(tmp_path / "resilience.json")
    (surface,) = json.loads((tmp_path / "resilience.json").read_text(encoding="utf-8"))["surfaces"]
    points = surface.pop("points")
    assert list(points[0]) == [
        *("step", "phase", "pressure", "lens_scale", "n_effective", "top2_share", "dead_count")
    ]
    assert points == seen.points()
    config = {
        "severity": "mild",
        "concentration_ratio": 0.6,
        "injection_duration": 10,
        "n_dominant": 2,
        "recovery_window": 50,
        "recovery_threshold": 0.1,
    }
    assert list(surface.items()) == [
        ("layer_id", 3),
        ("model_name", "m"),
        ("run_id", "r"),
        ("config", config),
        ("start_step", 10),
        ("baseline_n_effective", 4.0),
        ("recovery_checkpoints", 1),
        ("recovery_steps", 10),
        ("peak_pressure", pytest.approx(0.3)),
        ("peak_lens_scale", pytest.approx(0.15)),
        ("lowest_n_effective", 2.0),
    ]


def test_points_of_an_older_checkpoint_are_taken_over() -> None:
    point = {
        "step": 10,
        "phase": "baseline",
        "pressure": 0.0,
        "lens_scale": 0.0,
        "n_effective": 4.0,
        "top2_share": 0.5,
        "dead_count": 0,
    }
    seen = seen_by(MILD, 20)
    seen.restore([point])
    assert seen.points() == [point]
    assert seen.baseline_n_effective == 4.0
