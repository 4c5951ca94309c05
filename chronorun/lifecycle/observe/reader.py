"""Turns an evaluation's snapshot, window and weights into the signals that policies read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chronorun.config.governance import ControlConfig
from chronorun.config.lifecycle import LifecycleConfig, TwoModeUse
from chronorun.governance.decisions import ControlDecision
from chronorun.governance.policy import compute_topology_debt
from chronorun.lifecycle.decide.derived import (
    cluster_of,
    most_loaded,
    token_entropy_ratio,
    unresolved_debt,
    weight_deviations,
)
from chronorun.lifecycle.decide.signals import (
    ArchiveMatch,
    ExpertSignals,
    LayerSignals,
    ProbationReading,
)
from chronorun.lifecycle.decide.similarity import js_overlap, pair_signals
from chronorun.lifecycle.experts.basins import BasinEntry, basin_entries, entropy_term
from chronorun.lifecycle.experts.records import ExpertRecord
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.lifecycle.observe.two_mode import two_mode_score
from chronorun.lifecycle.observe.weights import WeightFigures, WeightWatch
from chronorun.model.population import ROUTER_ROWS, PopulationLayer
from chronorun.telemetry.snapshots import LayerSnapshot

if TYPE_CHECKING:
    from chronorun.telemetry.windows import LayerWindow


@dataclass(frozen=True)
class LayerInput:
    """What is known of one layer at an evaluation; ``window`` is None without a recorder."""

    step: int
    checkpoint: int
    snapshot: LayerSnapshot
    window: LayerWindow | None
    decision: ControlDecision | None
    weights: WeightFigures
    ramping: Collection[str] = ()
    overloaded: Collection[str] = ()
    pending: int = 0
    tokens_per_step: float = 0.0
    readings: list[ProbationReading] = field(default_factory=list)
    gains: Mapping[str, float] = field(default_factory=dict)


class SignalReader:
    """Reads the signals of a model's layers."""

    def __init__(
        self,
        layers: Sequence[PopulationLayer],
        registry: Registry,
        tap: InputTap,
        config: LifecycleConfig,
        control: ControlConfig,
        max_top_k: int,
    ) -> None:
        self.layers, self.registry, self.tap = list(layers), registry, tap
        self.config, self.control, self.max_top_k = config, control, max_top_k
        self.watches = [WeightWatch(layer) for layer in self.layers]

    def basins(self, x: LayerInput) -> list[BasinEntry]:
        """Return a basin entry for each live expert, in slot order."""
        layer_id = x.snapshot.layer_id
        ids, w = self.registry.slots(layer_id), x.weights
        if x.window is not None:
            return basin_entries(
                x.step,
                x.checkpoint,
                ids,
                x.window.token_types,
                x.window.positions,
                x.window.co_selection,
                w.norms,
                w.deltas,
            )
        nothing = np.zeros(2)
        return [
            BasinEntry(
                x.step, x.checkpoint, share, entropy_term(share), nothing, nothing, {}, norm, delta
            )
            for share, norm, delta in zip(
                x.snapshot.utilization_shares, w.norms, w.deltas, strict=True
            )
        ]

    def read(self, x: LayerInput) -> LayerSignals:
        """Return the signals of one layer; its basins must be those of this evaluation already."""
        layer_id = x.snapshot.layer_id
        ids = self.registry.slots(layer_id)
        records = self.registry.live(layer_id)
        entries = [record.basin.entries[-1] for record in records]
        groups = len(self.registry.groups(layer_id))
        ratio = token_entropy_ratio(x.snapshot.token_entropy_nats, groups)
        undecided = ratio >= self.config.spawn_entropy_threshold
        starved_T = self.starved(layer_id, x.window, undecided)
        debt, _ = compute_topology_debt(x.snapshot, self.control)
        if x.decision is not None:
            debt = float(x.decision.computed["debt"])
        return LayerSignals(
            step=x.step,
            checkpoint=x.checkpoint,
            layer_id=layer_id,
            top_k=self.layers[layer_id].top_k,
            max_top_k=max(self.max_top_k, self.layers[layer_id].top_k),
            dispatched=self._dispatched(x),
            experts=self._experts(x, records),
            layer_entropy=x.snapshot.entropy,
            layer_neff=x.snapshot.n_effective,
            topology_debt=debt,
            unresolved_debt=unresolved_debt(layer_id, _settled_shares(x, records), self.control),
            token_entropy_ratio=ratio,
            lens_scale=0.0 if x.decision is None else float(x.decision.actuator["lens_scale"]),
            next_expert_id=self.registry.next_id(layer_id),
            pending_spawns=x.pending,
            pairs=pair_signals(ids, entries, x.weights.cosines),
            cluster=self._cluster(x, ids),
            archive_matches=self._matches(layer_id, starved_T, x.window),
            probations=x.readings,
        )

    def starved(
        self, layer_id: int, window: LayerWindow | None, undecided: bool
    ) -> torch.Tensor | None:
        """Return the mask of the newest tokens that are served badly (see ``InputTap.starved``)."""
        by_slot = None if undecided or window is None else window.overflow_by_expert.tolist()
        return self.tap.starved(layer_id, by_slot)

    def _dispatched(self, x: LayerInput) -> int:
        if x.window is not None:
            return int(x.window.counts.sum())
        return int(any(x.snapshot.utilization_shares))

    def _experts(self, x: LayerInput, records: Sequence[ExpertRecord]) -> list[ExpertSignals]:
        layer_id = x.snapshot.layer_id
        contributions = self.tap.contributions(layer_id)
        harms = None
        if x.window is not None and x.tokens_per_step:
            counts = x.window.counts.sum(axis=0).tolist()
            harms = self.tap.token_harms(layer_id, counts, x.tokens_per_step)
        return [
            self._expert(
                x,
                slot,
                record,
                None if contributions is None else contributions[slot],
                None if harms is None else harms[slot],
                deviation,
            )
            for slot, (record, deviation) in enumerate(
                zip(records, weight_deviations(records), strict=True)
            )
        ]

    def _expert(
        self,
        x: LayerInput,
        slot: int,
        record: ExpertRecord,
        contribution: float | None,
        harm: tuple[float, float] | None,
        deviation: float | None,
    ) -> ExpertSignals:
        layer_id, name = record.layer_id, record.expert_id
        return ExpertSignals(
            expert_id=name,
            state=record.state,
            born_step=record.born_step,
            share=float(x.snapshot.utilization_shares[slot]),
            parent_id=record.parent_id,
            twin_of=self.registry.twins.get(name),
            ramping=name in x.ramping,
            overflow=0.0 if x.window is None else float(x.window.overflow_by_expert[slot]),
            weight_norm=x.weights.norms[slot],
            weight_delta=x.weights.deltas[slot],
            weight_deviation=deviation,
            two_mode_score=self._two_mode_score(x, layer_id, slot, name),
            contribution=contribution,
            token_harm=None if harm is None else harm[0],
            token_harm_error=None if harm is None else harm[1],
            leave_one_out_gain=x.gains.get(name),
        )

    def _two_mode_score(self, x: LayerInput, layer_id: int, slot: int, name: str) -> float | None:
        if self.config.split_two_mode is TwoModeUse.off and name not in x.overloaded:
            return None
        inputs = self.tap.inputs(layer_id, [slot])
        return None if inputs is None else two_mode_score(inputs)

    def _cluster(self, x: LayerInput, ids: Sequence[str]) -> list[str]:
        layer_id = x.snapshot.layer_id
        usable = [
            slot
            for slot, record in enumerate(self.registry.live(layer_id))
            if record.state is ExpertState.active and record.expert_id not in x.ramping
        ]
        if not usable:
            return []
        source = most_loaded(x.snapshot.utilization_shares, usable)
        if x.window is not None and self.layers[layer_id].top_k > 1:
            affinity = x.window.co_selection.astype(np.float64)
        else:
            rows = self.layers[layer_id].slot_tensors()[ROUTER_ROWS].detach().float()
            rows = torch.nn.functional.normalize(rows, dim=1)
            affinity = (rows @ rows.t()).double().cpu().numpy()
        names = [ids[slot] for slot in usable]
        return cluster_of(names, affinity[np.ix_(usable, usable)], ids[source])

    def _matches(
        self, layer_id: int, starved_T: torch.Tensor | None, window: LayerWindow | None
    ) -> list[ArchiveMatch]:
        # What was absorbed lives on, and what did harm is not asked back.
        archived = [
            record
            for record in self.registry.archived(layer_id)
            if record.merged_into is None and not record.rolled_back
        ]
        if not archived or window is None:
            return []
        counts = self.tap.type_counts(layer_id, starved_T, window.token_types.shape[1])
        if counts is None or not sum(counts):
            return []
        wanted = np.asarray(counts, dtype=np.float64) / sum(counts)
        matches = []
        for record in archived:
            known = record.basin.latest_used
            if known is not None and len(known.token_type_dist) == len(wanted):
                overlap = js_overlap(known.token_type_dist, wanted)
                matches.append(ArchiveMatch(record.expert_id, overlap))
        return matches

    def state_dict(self) -> dict[str, Any]:
        """Return what the weights were at the last evaluation."""
        return {str(i): watch.state_dict() for i, watch in enumerate(self.watches)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        for i, watch in enumerate(self.watches):
            watch.load_state_dict(state[str(i)])


def _settled_shares(x: LayerInput, records: Sequence[ExpertRecord]) -> list[float]:
    return [
        share
        for share, record in zip(x.snapshot.utilization_shares, records, strict=True)
        if record.state is not ExpertState.cooling and record.expert_id not in x.ramping
    ]
