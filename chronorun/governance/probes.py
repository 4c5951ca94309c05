"""Forced pathology, to measure how a layer recovers from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chronorun.config.scenario import Severity
from chronorun.core.files import write_atomically

_LEVELS = {
    Severity.mild: (0.6, 10, 50),
    Severity.moderate: (0.8, 20, 100),
    Severity.severe: (0.95, 50, 150),
    Severity.catastrophic: (1.0, 100, 200),
}


@dataclass
class PathologyConfig:
    """How hard and how long routing is concentrated. Durations are in steps."""

    severity: str = "moderate"
    concentration_ratio: float = 0.8
    injection_duration: int = 20
    n_dominant: int = 2
    recovery_window: int = 100
    recovery_threshold: float = 0.1

    @classmethod
    def from_severity(cls, severity: str | Severity) -> PathologyConfig:
        """Return the configuration of a severity: mild, moderate, severe or catastrophic."""
        level = Severity(severity)
        ratio, injection, recovery = _LEVELS[level]
        return cls(level.value, ratio, injection, recovery_window=recovery)


@dataclass
class ResilienceSurface:
    """The trajectory of one probe of one layer.

    Recovered means: at a checkpoint after the injection's end ``n_effective`` is at most
    ``recovery_threshold`` (relative) below its mean over the baseline. ``recovery_checkpoints``
    counts the checkpoints from the end until then, that one included; None when it never happened.
    """

    layer_id: int
    model_name: str
    run_id: str
    config: dict[str, Any]
    start_step: int
    points: list[dict[str, Any]] = field(default_factory=list)

    def _phase(self, phase: str) -> list[dict[str, Any]]:
        return [point for point in self.points if point["phase"] == phase]

    @property
    def baseline_n_effective(self) -> float | None:
        """Mean ``n_effective`` before the injection; None without a point."""
        values = [point["n_effective"] for point in self._phase("baseline")]
        return sum(values) / len(values) if values else None

    def _recovered_at(self) -> int | None:
        base = self.baseline_n_effective
        if base is None:
            return None
        wanted = (1.0 - self.config["recovery_threshold"]) * base
        after = self._phase("recovery") + self._phase("complete")
        for index, point in enumerate(after):
            if point["n_effective"] >= wanted:
                return index
        return None

    @property
    def recovery_checkpoints(self) -> int | None:
        """Checkpoints from the end of the injection to recovery; None when censored."""
        index = self._recovered_at()
        return None if index is None else index + 1

    @property
    def recovery_steps(self) -> int | None:
        """Steps from the end of the injection to the checkpoint of recovery."""
        index = self._recovered_at()
        if index is None:
            return None
        point = (self._phase("recovery") + self._phase("complete"))[index]
        return int(point["step"] - self.start_step - self.config["injection_duration"])

    def peak(self, name: str) -> float:
        """Return the largest value of a point's field since the injection began."""
        values = [p[name] for p in self.points if p["phase"] != "baseline"]
        return max(values, default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the trajectory with what follows from it."""
        return dict(vars(self)) | {
            "baseline_n_effective": self.baseline_n_effective,
            "recovery_checkpoints": self.recovery_checkpoints,
            "recovery_steps": self.recovery_steps,
            "peak_pressure": self.peak("pressure"),
            "peak_lens_scale": self.peak("lens_scale"),
            "lowest_n_effective": min((p["n_effective"] for p in self.points), default=None),
        }


class PathologyProbe:
    """Runs one probe per layer: baseline, injection, recovery, complete."""

    def __init__(self, model_name: str, run_id: str, output_dir: str | Path = "outputs") -> None:
        self.model_name = model_name
        self.run_id = run_id
        self.output_dir = Path(output_dir)
        self.config = PathologyConfig()
        self.start_step = 0
        self._surfaces: dict[int, ResilienceSurface] = {}
        self._active: int | None = None

    def start_probe(self, layer_id: int, config: PathologyConfig, start_step: int = 0) -> None:
        """Begin a probe of a layer; its injection starts at ``start_step``."""
        self.config, self.start_step, self._active = config, start_step, layer_id
        self._surfaces[layer_id] = ResilienceSurface(
            layer_id, self.model_name, self.run_id, dict(vars(config)), start_step
        )

    def get_phase(self, step: int) -> str:
        """Return inactive, baseline, injection, recovery or complete."""
        if self._active is None:
            return "inactive"
        since = step - self.start_step
        if since < 0:
            return "baseline"
        if since < self.config.injection_duration:
            return "injection"
        if since < self.config.injection_duration + self.config.recovery_window:
            return "recovery"
        return "complete"

    def should_override_routing(self, step: int) -> bool:
        """Say whether routing is forced at this step."""
        return self.get_phase(step) == "injection"

    def get_routing_override(self, step: int, n_experts: int) -> list[float] | None:
        """Return the target shares of the experts, or None outside the injection."""
        if not self.should_override_routing(step):
            return None
        dominant = min(self.config.n_dominant, n_experts)
        ratio = self.config.concentration_ratio if n_experts > dominant else 1.0
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
        """Add a checkpoint to the trajectory; the window that ended at ``step`` has the phase."""
        if self._active is None:
            return
        self._surfaces[self._active].points.append(
            {
                "step": step,
                "phase": self.get_phase(step - 1),
                "pressure": pressure,
                "lens_scale": lens_scale,
                "n_effective": n_effective,
                "top2_share": top2_share,
                "dead_count": dead_count,
            }
        )

    def end_probe(self) -> ResilienceSurface | None:
        """End the probe and return its surface."""
        surface = None if self._active is None else self._surfaces[self._active]
        self._active = None
        return surface

    def get_surface(self, layer_id: int) -> ResilienceSurface | None:
        """Return the surface of a layer, if it was probed."""
        return self._surfaces.get(layer_id)

    def save(self, path: str | Path | None = None) -> Path:
        """Write all surfaces as JSON (default: ``output_dir/run_id/resilience.json``)."""
        target = Path(path) if path else self.output_dir / self.run_id / "resilience.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        record = {"surfaces": [surface.to_dict() for surface in self._surfaces.values()]}
        data = msgspec.json.format(msgspec.json.encode(record), indent=2)
        write_atomically(target, data + b"\n")
        return target


def compare_surfaces(teacher: ResilienceSurface, student: ResilienceSurface) -> dict[str, Any]:
    """Compare two probes of a layer: differences are student minus teacher, None when censored."""

    def difference(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else b - a

    return {
        "layer_id": teacher.layer_id,
        "recovery_checkpoints": difference(
            teacher.recovery_checkpoints, student.recovery_checkpoints
        ),
        "recovery_steps": difference(teacher.recovery_steps, student.recovery_steps),
        "peak_pressure": student.peak("pressure") - teacher.peak("pressure"),
        "peak_lens_scale": student.peak("lens_scale") - teacher.peak("lens_scale"),
        "both_recovered": None not in (teacher.recovery_steps, student.recovery_steps),
    }


def load_surfaces(path: str | Path) -> list[Mapping[str, Any]]:
    """Read the surfaces of a ``resilience.json``."""
    record = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    return list(record["surfaces"])
