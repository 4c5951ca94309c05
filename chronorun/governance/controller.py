"""The controller: one update per evaluation, for every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from chronorun.config.governance import ControlConfig
from chronorun.core.jsonl import JsonlWriter
from chronorun.core.run_files import log_file
from chronorun.core.state import from_plain, to_plain
from chronorun.errors import UserError
from chronorun.governance.decisions import ControlDecision
from chronorun.governance.policy import (
    ControlState,
    compute_lens_scale,
    compute_topology_debt,
    update_control_state,
)
from chronorun.governance.priors import (
    LayerPriors,
    apply_priors_to_state,
    load_priors,
    save_priors,
)

if TYPE_CHECKING:
    from chronorun.telemetry.snapshots import LayerSnapshot, SystemSnapshot


class Lens(Protocol):
    """What the controller needs of a lens."""

    rank: int

    def set_scale(self, s: float) -> None:
        """Set the scale."""

    def set_steering_mode(self, mode: str) -> None:
        """Choose the direction's rule."""

    def update_steering(self, utilization_shares: Sequence[float]) -> None:
        """Hand over the newest shares."""

    def get_norms(self) -> dict[str, float]:
        """Return the norms of the low-rank factors U and V as ``u_norm`` and ``v_norm``."""


class RecordWriter(Protocol):
    """What takes the decisions' records."""

    def write(self, record: Any) -> None:
        """Append one record."""


class Controller:
    """Keeps a ControlState per layer and turns snapshots into lens scales and decisions.

    Decisions go to ``writer`` if one is given, else, once ``initialize`` named the run, to
    ``output_dir/run_id/control_decisions.jsonl``. The functions in ``after_update`` are called with
    the snapshot and the decisions.
    """

    def __init__(
        self,
        n_layers: int,
        n_experts_per_layer: Sequence[int],
        config: ControlConfig | None = None,
        output_dir: str | Path = "outputs",
        *,
        writer: RecordWriter | None = None,
    ) -> None:
        if n_layers != len(n_experts_per_layer):
            raise UserError(
                f"controller: n_experts_per_layer has {len(n_experts_per_layer)} entries, "
                f"expected n_layers={n_layers}; give one number per MoE layer"
            )
        self.config = config if config is not None else ControlConfig()
        self.output_dir = Path(output_dir)
        self.run_id = ""
        self.priors: dict[int, LayerPriors] = {}
        self.after_update: list[Callable[[SystemSnapshot, list[ControlDecision]], None]] = []
        self._writer = writer
        self._file: JsonlWriter | None = None
        self._states = {i: ControlState(i, n) for i, n in enumerate(n_experts_per_layer)}

    def initialize(self, run_id: str) -> None:
        """Name the run that the decisions belong to, and open its file unless given a writer."""
        self.run_id = run_id
        self.close()
        if self._writer is None:
            self._file = JsonlWriter(self.output_dir / run_id / log_file("control_decisions"))
            self._writer = self._file

    def close(self) -> None:
        """Close the file that ``initialize`` opened; a writer that was given stays open."""
        if self._file is not None:
            self._file.close()
            self._file = self._writer = None

    def update(
        self, snapshot: SystemSnapshot, lenses: Mapping[int, Lens] | Sequence[Lens] | None = None
    ) -> list[ControlDecision]:
        """Update every layer from a snapshot, steer its lens, and log and return the decisions."""
        decisions = []
        for layer in snapshot.layers:
            state = self._known(layer.layer_id)
            prior = self.priors.get(layer.layer_id)
            update_control_state(state, layer, self.config, snapshot.step, prior)
            compute_lens_scale(state, self.config, snapshot.step, prior)
            lens = _lens_of(lenses, layer.layer_id)
            if lens is not None:
                lens.set_steering_mode(state.active_mode)
                lens.update_steering(layer.utilization_shares)
                lens.set_scale(state.prev_scale)
            decision = self._decision(snapshot, layer, state, lens)
            decisions.append(decision)
            if self._writer is not None:
                self._writer.write(decision.to_dict())
        for hook in self.after_update:
            hook(snapshot, decisions)
        return decisions

    def _known(self, layer_id: int) -> ControlState:
        if layer_id not in self._states:
            raise UserError(
                f"controller: layer_id={layer_id} in the snapshot, expected < {len(self._states)}; "
                f"give n_layers as many layers as are observed"
            )
        return self._states[layer_id]

    def _decision(
        self,
        snapshot: SystemSnapshot,
        layer: LayerSnapshot,
        state: ControlState,
        lens: Lens | None,
    ) -> ControlDecision:
        debt, parts = compute_topology_debt(layer, self.config)
        norms = {} if lens is None else lens.get_norms()
        quota = state.quota or {}
        name = f"Layer {layer.layer_id}:"
        return ControlDecision(
            run_id=self.run_id or snapshot.run_id,
            step=snapshot.step,
            layer_id=layer.layer_id,
            observed={
                "entropy": layer.entropy,
                "n_effective": layer.n_effective,
                "top2_share": layer.top2_share,
                "dead_expert_count": layer.dead_expert_count,
            },
            computed={
                "debt": debt,
                "pressure": state.pressure,
                "heat": state.heat,
                "forgetting": state.forgetting,
                "harm_backoff": state.harm_backoff,
                "abstain": state.abstain,
                "abstain_reason": state.abstain_reason,
                "active_mode": state.active_mode,
                "mode_scores": dict(state.mode_scores),
                **parts,
            },
            actuator={
                "lens_scale": state.prev_scale,
                "lens_rank": lens.rank if lens is not None else 0,
                "lens_u_norm": norms.get("u_norm", 0.0),
                "lens_v_norm": norms.get("v_norm", 0.0),
            },
            emergency={
                "quota_applied": False,
                "quota_summary": {str(e): quota[e] for e in state.dominant or [] if e in quota},
            },
            notes=[alert for alert in snapshot.alerts if name in alert],
        )

    def get_state(self, layer_id: int) -> ControlState:
        """Return the state of one layer."""
        return self._states[layer_id]

    def get_all_states(self) -> dict[int, ControlState]:
        """Return the states by layer."""
        return dict(self._states)

    def get_lens_scales(self, step: int = 0) -> dict[int, float]:
        """Return the scale in force in each layer (``step`` is accepted as in v2)."""
        return {layer: state.prev_scale for layer, state in self._states.items()}

    def save_priors(self, path: str | Path, compress: bool = True) -> None:
        """Write what the layers have taught so far."""
        save_priors(self._states, path, self.config, compress)

    def load_priors(self, path: str | Path) -> None:
        """Start from what another run learned: a priors file or its run folder."""
        self.priors = load_priors(path)
        for layer_id, prior in self.priors.items():
            if layer_id in self._states:
                apply_priors_to_state(self._states[layer_id], prior)

    def state_dict(self) -> dict[str, Any]:
        """Return states and priors as plain JSON data; a resume from it is exact."""
        return to_plain({"states": self._states, "priors": self.priors})

    def load_state_dict(self, plain: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._states = from_plain(dict[int, ControlState], plain["states"])
        self.priors = from_plain(dict[int, LayerPriors], plain["priors"])


def _lens_of(lenses: Mapping[int, Lens] | Sequence[Lens] | None, layer_id: int) -> Lens | None:
    if lenses is None:
        return None
    if isinstance(lenses, Mapping):
        return lenses.get(layer_id)
    return lenses[layer_id] if layer_id < len(lenses) else None
