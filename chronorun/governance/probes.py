"""Probes: force a pathology and measure how a layer recovers, under v2's names.

A probe forces nothing itself. It says what routing should be at a step, takes what was seen there,
and sums up. ``scenario=collapse`` of the trainer is built of the same parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from chronorun.core.files import write_atomically
from chronorun.core.jsonl import encode_json
from chronorun.errors import UserError


class SeverityLevel(Enum):
    """How hard a pathology is; ``scenario.severity`` has the same words."""

    MILD = "mild"
    MODERATE = "moderate"
    SEVERE = "severe"
    CATASTROPHIC = "catastrophic"


_NUMBERS = {
    SeverityLevel.MILD: (0.6, 10, 50),
    SeverityLevel.MODERATE: (0.8, 20, 100),
    SeverityLevel.SEVERE: (0.95, 50, 150),
    SeverityLevel.CATASTROPHIC: (1.0, 100, 200),
}
_ORDER = [level.value for level in SeverityLevel]
_RATIOS = ("pressure_ratio", "scale_ratio", "recovery_ratio")


@dataclass
class PathologyConfig:
    """How hard and how long routing is concentrated. Durations are in steps.

    ``severity`` is a level's word or a name of your own. Raises UserError for a number that no
    probe can be made of.
    """

    severity: str
    concentration_ratio: float = 0.8
    injection_duration: int = 20
    n_dominant: int = 2
    recovery_window: int = 100
    recovery_threshold: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.severity, SeverityLevel):
            self.severity = self.severity.value
        for name, fits, rule in (
            ("concentration_ratio", 0 <= self.concentration_ratio <= 1, ">= 0 and <= 1"),
            ("injection_duration", self.injection_duration >= 0, ">= 0"),
            ("n_dominant", self.n_dominant >= 1, ">= 1"),
            ("recovery_window", self.recovery_window >= 0, ">= 0"),
        ):
            if not fits:
                got = getattr(self, name)
                raise UserError(f"probe: {name}={got}, expected {rule}; correct the argument")

    @classmethod
    def from_severity(cls, severity: SeverityLevel | str) -> PathologyConfig:
        """Return the configuration of a level, given as a member or as its word."""
        word = severity.value if isinstance(severity, Enum) else severity
        if word not in _ORDER:
            raise UserError(
                f"probe: severity={word}, expected one of {', '.join(_ORDER)}; "
                f"make a PathologyConfig(severity=...) for one of your own"
            )
        ratio, injection, recovery = _NUMBERS[SeverityLevel(word)]
        return cls(word, ratio, injection, recovery_window=recovery)

    def phase_at(self, since: int) -> str:
        """Return the phase ``since`` steps after the start (negative: before it)."""
        if since < 0:
            return "baseline"
        if since < self.injection_duration:
            return "injection"
        if since < self.injection_duration + self.recovery_window:
            return "recovery"
        return "complete"


@dataclass
class TrajectoryPoint:
    """What was seen of a layer at one step, and the phase it belongs to."""

    step: int
    pressure: float
    lens_scale: float
    n_effective: float
    top2_share: float
    dead_count: int
    phase: str


@dataclass
class RecoveryTrajectory:
    """One probe of one layer: its points, and what ``compute_summary`` makes of them.

    ``steps_to_recovery`` is -1 where the layer did not recover. It counts points, which are steps
    where one is recorded at each.
    """

    model_name: str
    run_id: str
    layer_id: int
    severity: str
    config: PathologyConfig
    points: list[TrajectoryPoint] = field(default_factory=list)
    peak_pressure: float = 0.0
    peak_lens_scale: float = 0.0
    min_neff_during_injection: float = 0.0
    steps_to_recovery: int = -1
    recovery_achieved: bool = False

    def add_point(self, point: TrajectoryPoint) -> None:
        """Append a point."""
        self.points.append(point)

    def of_phases(self, *phases: str) -> list[TrajectoryPoint]:
        """Return the points of some phases, in order."""
        return [point for point in self.points if point.phase in phases]

    def compute_summary(self) -> None:
        """Derive the summary from the points; without any it stays as it is.

        Peaks are over injection and recovery, the least N_eff over the injection; 0 where those
        phases have no point. A layer has recovered at the first point of the recovery phase whose
        pressure is below ``recovery_threshold``, counted from that phase's first point.
        """
        if not self.points:
            return
        stressed = self.of_phases("injection", "recovery")
        self.peak_pressure = max((point.pressure for point in stressed), default=0.0)
        self.peak_lens_scale = max((point.lens_scale for point in stressed), default=0.0)
        self.min_neff_during_injection = min(
            (point.n_effective for point in self.of_phases("injection")), default=0.0
        )
        self.steps_to_recovery = next(
            (
                index
                for index, point in enumerate(self.of_phases("recovery"))
                if point.pressure < self.config.recovery_threshold
            ),
            -1,
        )
        self.recovery_achieved = self.steps_to_recovery >= 0

    def to_dict(self) -> dict[str, Any]:
        """Return the record, with the derived figures under ``summary``."""
        summary = (
            "peak_pressure",
            "peak_lens_scale",
            "min_neff_during_injection",
            "steps_to_recovery",
            "recovery_achieved",
        )
        plain = asdict(self)
        points = plain.pop("points")
        return plain | {"summary": {key: plain.pop(key) for key in summary}, "points": points}


@dataclass
class ResilienceSurface:
    """The trajectories of one layer by severity."""

    model_name: str
    run_id: str
    layer_id: int
    trajectories: dict[str, RecoveryTrajectory] = field(default_factory=dict)

    def add_trajectory(self, trajectory: RecoveryTrajectory) -> None:
        """Take a trajectory; a newer one of the same severity replaces the older."""
        self.trajectories[trajectory.severity] = trajectory

    def get_response_curve(self) -> list[tuple[str, float, float, int]]:
        """Return (severity, peak_pressure, peak_lens_scale, steps_to_recovery), mildest first.

        Severities with names of your own follow the four levels, in the order they were added.
        """
        known = [word for word in _ORDER if word in self.trajectories]
        own = [word for word in self.trajectories if word not in _ORDER]
        found = [(word, self.trajectories[word]) for word in known + own]
        return [
            (word, one.peak_pressure, one.peak_lens_scale, one.steps_to_recovery)
            for word, one in found
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the record: response curve and trajectories."""
        return {
            "model_name": self.model_name,
            "run_id": self.run_id,
            "layer_id": self.layer_id,
            "response_curve": self.get_response_curve(),
            "trajectories": {word: one.to_dict() for word, one in self.trajectories.items()},
        }


class PathologyProbe:
    """Runs one probe after another: baseline, injection, recovery, complete."""

    def __init__(self, model_name: str, run_id: str, output_dir: str | Path = "outputs") -> None:
        self.model_name = model_name
        self.run_id = run_id
        self.output_dir = Path(output_dir)
        self.surfaces: dict[int, ResilienceSurface] = {}
        self.current_trajectory: RecoveryTrajectory | None = None
        self.probe_start_step = 0

    def start_probe(self, layer_id: int, config: PathologyConfig, start_step: int = 0) -> None:
        """Begin a probe of a layer; its injection starts at ``start_step``.

        A probe that was not ended is dropped.
        """
        self.probe_start_step = start_step
        self.current_trajectory = RecoveryTrajectory(
            self.model_name, self.run_id, layer_id, config.severity, config
        )

    def get_phase(self, step: int) -> str:
        """Return inactive, baseline, injection, recovery or complete."""
        if self.current_trajectory is None:
            return "inactive"
        return self.current_trajectory.config.phase_at(step - self.probe_start_step)

    def should_override_routing(self, step: int) -> bool:
        """Return whether routing is to be forced at this step."""
        return self.get_phase(step) == "injection"

    def get_routing_override(self, step: int, n_experts: int) -> list[float] | None:
        """Return the target shares of the experts, or None outside the injection."""
        if self.current_trajectory is None or not self.should_override_routing(step):
            return None
        config = self.current_trajectory.config
        dominant = min(config.n_dominant, n_experts)
        ratio = config.concentration_ratio if n_experts > dominant else 1.0
        rest = (1.0 - ratio) / max(1, n_experts - dominant)
        return [ratio / dominant] * dominant + [rest] * (n_experts - dominant)

    def record_point(
        self,
        step: int,
        pressure: float,
        lens_scale: float,
        n_effective: float,
        top2_share: float,
        dead_count: int,
    ) -> None:
        """Add what was seen at a step; nothing without a probe or after its recovery window."""
        phase = self.get_phase(step)
        if self.current_trajectory is None or phase == "complete":
            return
        self.current_trajectory.add_point(
            TrajectoryPoint(
                step=int(step),
                pressure=float(pressure),
                lens_scale=float(lens_scale),
                n_effective=float(n_effective),
                top2_share=float(top2_share),
                dead_count=int(dead_count),
                phase=phase,
            )
        )

    def end_probe(self) -> RecoveryTrajectory | None:
        """End the probe, sum it up, and add it to its layer's surface; returns the trajectory."""
        trajectory, self.current_trajectory = self.current_trajectory, None
        if trajectory is None:
            return None
        trajectory.compute_summary()
        layer_id = trajectory.layer_id
        if layer_id not in self.surfaces:
            self.surfaces[layer_id] = ResilienceSurface(self.model_name, self.run_id, layer_id)
        self.surfaces[layer_id].add_trajectory(trajectory)
        return trajectory

    def get_surface(self, layer_id: int) -> ResilienceSurface | None:
        """Return the surface of a layer; None before a probe of it has ended."""
        return self.surfaces.get(layer_id)

    def save(self, filename: str = "pathology_results.json") -> Path:
        """Write ``output_dir/run_id/filename`` and return its path. What is not finite is null."""
        path = self.output_dir / self.run_id / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "model_name": self.model_name,
            "run_id": self.run_id,
            "surfaces": {str(i): surface.to_dict() for i, surface in self.surfaces.items()},
        }
        data = encode_json(record, enc_hook=_plain_number)
        write_atomically(path, msgspec.json.format(data, indent=2) + b"\n")
        return path


def _plain_number(value: Any) -> Any:
    """Return the number of a NumPy or torch scalar in a trajectory."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no number")


def compare_surfaces(teacher: ResilienceSurface, student: ResilienceSurface) -> dict[str, Any]:
    """Compare two surfaces: student over teacher, for the severities that both have.

    Returns ``severities`` and, as lists, ``pressure_ratio``, ``scale_ratio`` and
    ``recovery_ratio``; ``mean_*`` of each; ``by_severity`` with the same ratios by name. A ratio
    that has no value is None there, and left out of lists and means, as in v2: the teacher's
    figure is 0, or one of both never recovered. ``governance_efficiency`` is 1 over the mean scale
    ratio and ``student_wins`` whether that mean is below 1; None where it, or its inverse, has no
    value.
    """
    students = {row[0]: row for row in student.get_response_curve()}
    by_severity: dict[str, dict[str, float | None]] = {}
    for word, pressure, scale, steps in teacher.get_response_curve():
        if word in students:
            _, its_pressure, its_scale, its_steps = students[word]
            recovered = steps >= 0 and its_steps >= 0
            values = (
                _ratio(its_pressure, pressure),
                _ratio(its_scale, scale),
                _ratio(its_steps, steps) if recovered else None,
            )
            by_severity[word] = dict(zip(_RATIOS, values, strict=True))
    lists = {
        name: [value for row in by_severity.values() if (value := row[name]) is not None]
        for name in _RATIOS
    }
    means = {f"mean_{name}": _mean(values) for name, values in lists.items()}
    scale_ratio = means["mean_scale_ratio"]
    return {
        "severities": list(by_severity),
        **lists,
        **means,
        "by_severity": by_severity,
        "governance_efficiency": None if scale_ratio is None else _ratio(1.0, scale_ratio),
        "student_wins": None if scale_ratio is None else scale_ratio < 1.0,
    }


def _ratio(value: float, over: float) -> float | None:
    if not (math.isfinite(value) and math.isfinite(over) and over > 0):
        return None
    return float(value) / float(over)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
