"""How a layer recovers from a collapse, measured at evaluations: ``resilience*.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from chronorun.core.files import write_atomically
from chronorun.core.jsonl import encode_json
from chronorun.core.state import from_plain
from chronorun.governance import RecoveryTrajectory, TrajectoryPoint


@dataclass
class LayerResilience:
    """A probe's trajectory with one point per evaluation, judged by the layer's own baseline.

    Pressure is an average over evaluations and outlasts the collapse by many, so recovery is judged
    by what routing itself does: at an evaluation after the injection's end ``n_effective`` is at
    most ``recovery_threshold`` (relative) below its mean over the baseline.
    """

    trajectory: RecoveryTrajectory
    start_step: int

    def record(
        self,
        step: int,
        pressure: float,
        lens_scale: float,
        n_effective: float,
        top2_share: float,
        dead_count: int,
    ) -> None:
        """Add an evaluation; the window that ended with ``step`` has the phase of its last step."""
        phase = self.trajectory.config.phase_at(step - 1 - self.start_step)
        self.trajectory.add_point(
            TrajectoryPoint(step, pressure, lens_scale, n_effective, top2_share, dead_count, phase)
        )

    @property
    def baseline_n_effective(self) -> float | None:
        """Mean ``n_effective`` before the injection; None without a point."""
        values = [point.n_effective for point in self.trajectory.of_phases("baseline")]
        return sum(values) / len(values) if values else None

    def _recovered_at(self) -> tuple[int, TrajectoryPoint] | None:
        base = self.baseline_n_effective
        if base is None:
            return None
        wanted = (1.0 - self.trajectory.config.recovery_threshold) * base
        for index, point in enumerate(self.trajectory.of_phases("recovery", "complete")):
            if point.n_effective >= wanted:
                return index, point
        return None

    @property
    def recovery_checkpoints(self) -> int | None:
        """Evaluations from the injection's end to recovery, that one included; None: censored."""
        found = self._recovered_at()
        return None if found is None else found[0] + 1

    @property
    def recovery_steps(self) -> int | None:
        """Steps from the end of the injection to the evaluation of recovery."""
        found = self._recovered_at()
        if found is None:
            return None
        return found[1].step - self.start_step - self.trajectory.config.injection_duration

    def _peak(self, name: str) -> float:
        values = [getattr(p, name) for p in self.trajectory.points if p.phase != "baseline"]
        return max(values, default=0.0)

    def points(self) -> list[dict[str, Any]]:
        """Return the points as plain data."""
        return [
            {"step": point.step, "phase": point.phase} | vars(point)
            for point in self.trajectory.points
        ]

    def restore(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Put back what ``points`` returned."""
        self.trajectory.points[:] = from_plain(list[TrajectoryPoint], points)

    def save(self, path: Path) -> None:
        """Write the trajectory and what follows from it."""
        trajectory = self.trajectory
        surface = {
            "layer_id": trajectory.layer_id,
            "model_name": trajectory.model_name,
            "run_id": trajectory.run_id,
            "config": vars(trajectory.config),
            "start_step": self.start_step,
            "points": self.points(),
            "baseline_n_effective": self.baseline_n_effective,
            "recovery_checkpoints": self.recovery_checkpoints,
            "recovery_steps": self.recovery_steps,
            "peak_pressure": self._peak("pressure"),
            "peak_lens_scale": self._peak("lens_scale"),
            "lowest_n_effective": min((p.n_effective for p in trajectory.points), default=None),
        }
        data = encode_json({"surfaces": [surface]})
        write_atomically(path, msgspec.json.format(data, indent=2) + b"\n")
