"""Control decisions, derived again from the snapshots by the controller itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay.config import Deciding
from chronorun.analysis.replay.lines import Differs, Line, LineStream, at, check
from chronorun.analysis.replay.result import Tally
from chronorun.config.governance import GovernanceConfig
from chronorun.core.run_files import CHECKPOINTS
from chronorun.errors import StorageError, UserError
from chronorun.governance.controller import Controller
from chronorun.governance.priors import LayerPriors, apply_priors_to_state, load_priors
from chronorun.lifecycle.record.logs import Nowhere
from chronorun.telemetry.snapshots import SystemSnapshot

MEASURED = ("lens_u_norm", "lens_v_norm")
"""Logged norms of the lens; no decision depends on them."""


class _Computed(msgspec.Struct):
    debt: float


class _Actuator(msgspec.Struct):
    lens_scale: float


class ControlFields(msgspec.Struct):
    """What a line of ``control_decisions.jsonl`` must have to be read at all."""

    step: int
    computed: _Computed
    actuator: _Actuator


class ControlReplay:
    """Derives the control decisions of a run, one evaluation after the other."""

    def __init__(self, run: Run, config: Deciding, tally: Tally) -> None:
        self.config, self.tally = config, tally
        self.lines = LineStream(run, "control_decisions")
        self._controller, self._lenses = None, None
        governance = config.governance
        if not governance.enabled:
            return
        priors = find_priors(run, governance)
        if priors is None:
            tally.why_not = (
                f"the priors that the run started from are gone ({governance.priors_from})"
            )
            return
        self._controller, self._lenses = make_controller(
            config.run_id, config.n_layers, config.n_experts, governance, priors
        )

    def take(self, snapshot: Line, step: int) -> list[Line]:
        """Return the decisions logged at a snapshot. Raises Differs."""
        if not self.config.governance.enabled:
            return []
        lines = [
            self.lines.expect(step, "a control decision", layer_id)
            for layer_id in range(self.config.n_layers)
        ]
        for line in lines:
            line.typed(ControlFields)
        logged = {line.record["step"] for line in lines}
        if len(logged) == 1 and step not in logged and step % self.config.eval_interval:
            raise Differs(at(snapshot, "step", step, logged.pop()))
        return lines

    def check(self, snapshot: SystemSnapshot, lines: Sequence[Line]) -> None:
        """Derive the decisions of a snapshot and compare them with the log. Raises Differs."""
        if self._controller is None:
            return
        derived = self._controller.update(snapshot, self._lenses)
        for line, decision in zip(lines, derived, strict=True):
            logged = Line(line.file, line.number, without_norms(line.record), line.folder)
            check(logged, without_norms(decision.to_dict()))
            self.tally.reproduced += 1


class KnownLens:
    """Stands where a lens was; what the controller sets is in the decision."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def set_scale(self, s: float) -> None:
        """Do nothing."""

    def set_steering_mode(self, mode: str) -> None:
        """Do nothing."""

    def update_steering(self, utilization_shares: Sequence[float]) -> None:
        """Do nothing."""

    def get_norms(self) -> dict[str, float]:
        """Return no norms: they are not derived."""
        return {}


def make_controller(
    run_id: str,
    n_layers: int,
    n_experts: int,
    config: GovernanceConfig,
    priors: dict[int, LayerPriors],
) -> tuple[Controller, list[KnownLens]]:
    """Return a controller as it was at the start of a run, and stand-ins for its lenses."""
    controller = Controller(n_layers, [n_experts] * n_layers, config, writer=Nowhere())
    controller.initialize(run_id)
    controller.priors = priors
    for layer_id, prior in priors.items():
        if layer_id < n_layers:
            apply_priors_to_state(controller.get_state(layer_id), prior)
    return controller, [KnownLens(config.lens_rank) for _ in range(n_layers)]


def find_priors(run: Run, config: GovernanceConfig) -> dict[int, LayerPriors] | None:
    """Return what a run started from; None where it is to be had no more.

    A checkpoint of the run keeps it; else it is read from where the run read it.
    """
    if not config.priors_from:
        return {}
    for folder in sorted((run.folder / CHECKPOINTS).glob("step_*")):
        kept = _kept_priors(folder / "state.json")
        if kept is not None:
            return kept
    try:
        return load_priors(config.priors_from)
    except UserError:
        return None


def _kept_priors(path: Path) -> dict[int, LayerPriors] | None:
    if not path.is_file():
        return None
    try:
        state: Any = msgspec.json.decode(path.read_bytes())
        kept = state["heartbeat"]["controller"]["priors"]
        return {int(key): msgspec.convert(value, LayerPriors) for key, value in kept.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(
            f"replay: {path} is no state of a run ({error}); restore the file"
        ) from error


def without_norms(record: dict[str, Any]) -> dict[str, Any]:
    """Return a control decision's record without what nothing decides by."""
    actuator = {k: v for k, v in record["actuator"].items() if k not in MEASURED}
    return record | {"actuator": actuator}
