"""What the policies read, held against every other log that tells of it.

A line of the evaluation log carries a checksum of its signals (``signals_crc32``; older runs have
none). Where two logs disagree, the one whose line is not so sealed is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from chronorun.analysis.replay.lines import Differs, Line, as_json, at, compare, near
from chronorun.config.governance import ControlConfig
from chronorun.governance.policy import compute_topology_debt
from chronorun.lifecycle.decide.derived import (
    most_loaded,
    token_entropy_ratio,
    unresolved_debt,
    weight_deviations,
)
from chronorun.lifecycle.decide.policy_state import Probation
from chronorun.lifecycle.decide.signals import LayerSignals
from chronorun.lifecycle.decide.similarity import ALL_PAIRS_UP_TO, js_overlaps
from chronorun.lifecycle.experts.basins import BasinEntry, entropy_term
from chronorun.lifecycle.experts.records import ExpertRecord
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.evaluations import signals_checksum
from chronorun.lifecycle.record.ledger import Ledger
from chronorun.telemetry.layer import LayerSnapshot

OVERLAP_TOLERANCE = 2e-4
"""Basins are logged to six decimals: so far may an overlap derived from them lie off."""
ROUNDING = 1e-12
"""Logarithms differ in the last digit between machines."""
SEAL = "signals_crc32"


class BasinFields(msgspec.Struct):
    """What a line of ``basins.jsonl`` must have to be read at all."""

    step: int
    checkpoint: int
    share: float
    entropy_contribution: float
    token_type_dist: list[float]
    position_dist: list[float]
    co_activation: dict[str, float]
    weight_norm: float
    weight_delta: float


@dataclass(frozen=True)
class Sources:
    """The lines that tell of one layer at a checkpoint; ``place`` is its index in the snapshot."""

    evaluation: Line
    snapshot: Line
    place: int
    basins: list[Line]
    control: Line | None

    def in_snapshot(self, field: str) -> Any:
        """Return a field of the layer's part of the snapshot."""
        return self.snapshot.record["layers"][self.place].get(field)


def check_seal(line: Line) -> None:
    """Raise Differs where an evaluation's signals are not what was written."""
    logged = line.record.get(SEAL)
    if logged is not None:
        compare(line, SEAL, logged, signals_checksum(line.record.get("signals")))


def agree(x: Sources, field: str, signal: Any, other: Line, name: str, value: Any) -> None:
    """Raise Differs unless a signal equals what another log says; names the line at fault."""
    if signal == value:
        return
    if SEAL in x.evaluation.record:
        raise Differs(at(other, name, value, signal))
    raise Differs(at(x.evaluation, f"signals.{field}", signal, value))


def check_copies(x: Sources, s: LayerSignals) -> None:
    """Hold the signals against the fields of other logs that say the same."""
    snap, where = x.snapshot, f"layers[{x.place}]"
    agree(x, "step", s.step, snap, "step", snap.record.get("step"))
    agree(x, "layer_id", s.layer_id, snap, f"{where}.layer_id", x.in_snapshot("layer_id"))
    for field, name in (("layer_entropy", "entropy"), ("layer_neff", "n_effective")):
        agree(x, field, getattr(s, field), snap, f"{where}.{name}", x.in_snapshot(name))
    shares, ids = x.in_snapshot("utilization_shares"), x.in_snapshot("expert_ids")
    agree(x, "experts", len(s.experts), snap, f"{where}.num_experts", len(shares))
    for slot, expert in enumerate(s.experts):
        name = f"{where}.utilization_shares[{slot}]"
        agree(x, f"experts[{slot}].share", expert.share, snap, name, shares[slot])
        if ids is not None:
            name, known = f"{where}.expert_ids[{slot}]", ids[slot]
            agree(x, f"experts[{slot}].expert_id", expert.expert_id, snap, name, known)
    overflow = x.in_snapshot("overflow_fraction")
    if overflow is not None:
        total = sum(e.overflow for e in s.experts)
        if abs(total - overflow) > 1e-9:
            agree(x, "experts.overflow", total, snap, f"{where}.overflow_fraction", overflow)
    if x.control is not None:
        record, line = x.control.record, x.control
        for field, part, name in (
            ("topology_debt", "computed", "debt"),
            ("lens_scale", "actuator", "lens_scale"),
        ):
            agree(x, field, getattr(s, field), line, f"{part}.{name}", record[part][name])


def check_basins(x: Sources, s: LayerSignals) -> None:
    """Hold the basins of a layer against its signals."""
    for slot, (line, expert) in enumerate(zip(x.basins, s.experts, strict=True)):
        record = line.record
        for name, value in (
            ("step", s.step),
            ("checkpoint", s.checkpoint),
            ("layer_id", s.layer_id),
            ("expert_id", expert.expert_id),
        ):
            compare(line, name, record.get(name), value)
        for name in ("share", "weight_norm", "weight_delta"):
            signal = getattr(expert, name)
            agree(x, f"experts[{slot}].{name}", signal, line, name, record.get(name))
        term = entropy_term(expert.share)
        near(line, "entropy_contribution", record["entropy_contribution"], term, ROUNDING)
        for name in ("token_type_dist", "position_dist"):
            compare(line, f"{name} (length)", len(record[name]), len(x.basins[0].record[name]))
            _check_sum(line, name)
    _check_overlaps(x, s)


def _check_sum(line: Line, name: str) -> None:
    values = line.record[name]
    total, filled = sum(values), sum(map(bool, values))
    wanted = 1.0 if filled else 0.0
    near(line, f"{name} (its sum)", total, wanted, 0.5e-6 * filled + 1e-9)


def _check_overlaps(x: Sources, s: LayerSignals) -> None:
    if not s.pairs:
        return
    slots = {e.expert_id: slot for slot, e in enumerate(s.experts)}
    strange = [name for p in s.pairs for name in (p.first, p.second) if name not in slots]
    _same(x, "pairs (of others)", strange, [])
    rows = [slots[p.first] for p in s.pairs]
    columns = [slots[p.second] for p in s.pairs]
    derived = np.minimum(
        *(
            js_overlaps(dists[rows], dists[columns])
            for dists in (_dists(x, "token_type_dist"), _dists(x, "position_dist"))
        )
    )
    logged = np.array([p.overlap for p in s.pairs])
    wrong = np.flatnonzero(~(np.abs(derived - logged) <= OVERLAP_TOLERANCE)).tolist()
    if not wrong:
        return
    pair = wrong[0]
    if SEAL not in x.evaluation.record:
        field = f"signals.pairs[{pair}].overlap"
        raise Differs(at(x.evaluation, field, float(logged[pair]), float(derived[pair])))
    # Whoever takes part in most of them is the one whose basin was changed.
    named = [row for i in wrong for row in (rows[i], columns[i])]
    worst = max(named, key=named.count)
    field = f"overlap of {s.pairs[pair].first} and {s.pairs[pair].second}"
    raise Differs(at(x.basins[worst], field, float(derived[pair]), float(logged[pair])))


def _dists(x: Sources, name: str) -> NDArray[np.float64]:
    return np.array([line.record[name] for line in x.basins], dtype=np.float64)


def remember_basins(x: Sources, records: Sequence[ExpertRecord]) -> None:
    """Append to the histories what weight deviations are derived from; no histograms."""
    nothing = np.zeros(0)
    for line, record in zip(x.basins, records, strict=True):
        r = line.record
        record.basin.append(
            BasinEntry(
                r["step"], r["checkpoint"], r["share"], 0.0, nothing, nothing, {},
                r["weight_norm"], r["weight_delta"],
            )
        )  # fmt: skip


def check_derived(x: Sources, s: LayerSignals, ledger: Ledger, control: ControlConfig) -> None:
    """Hold the signals against what follows from the population's history and the snapshot."""
    registry, layer_id = ledger.registry, s.layer_id
    records = registry.live(layer_id)
    for slot, (expert, record, deviation) in enumerate(
        zip(s.experts, records, weight_deviations(records), strict=True)
    ):
        for name, value in _expert(ledger, record).items():
            _same(x, f"experts[{slot}].{name}", getattr(expert, name), value)
        _close(x, f"experts[{slot}].weight_deviation", expert.weight_deviation, deviation)
    for name, value in (
        ("next_expert_id", registry.next_id(layer_id)),
        ("pending_spawns", len(registry.pending(layer_id))),
    ):
        _same(x, name, getattr(s, name), value)
    shares = x.in_snapshot("utilization_shares")
    _same(x, "dispatched (above 0)", s.dispatched > 0, any(shares))
    nats, groups = x.in_snapshot("token_entropy_nats"), len(registry.groups(layer_id))
    if nats is not None:
        _ratio(x, s, nats, groups)
    _close(x, "unresolved_debt", s.unresolved_debt, settled_debt(s, shares, control))
    if x.control is None:
        layer = x.snapshot.typed(list[LayerSnapshot], "layers")[x.place]
        _same(x, "lens_scale", s.lens_scale, 0.0)
        _same(x, "topology_debt", s.topology_debt, compute_topology_debt(layer, control)[0])
    _check_names(x, s, ledger)


def _expert(ledger: Ledger, record: ExpertRecord) -> dict[str, Any]:
    name = record.expert_id
    return {
        "expert_id": name,
        "state": record.state,
        "born_step": record.born_step,
        "parent_id": record.parent_id,
        "twin_of": ledger.registry.twins.get(name),
        "ramping": name in ledger.ramps,
    }


def _ratio(x: Sources, s: LayerSignals, nats: float, groups: int) -> None:
    ratio = token_entropy_ratio(nats, groups)
    if abs(ratio - s.token_entropy_ratio) > ROUNDING:
        name, back = f"layers[{x.place}].token_entropy_nats", s.token_entropy_ratio
        if SEAL in x.evaluation.record and groups > 1:
            raise Differs(at(x.snapshot, name, nats, back * math.log(groups)))
        raise Differs(at(x.evaluation, "signals.token_entropy_ratio", back, ratio))


def _check_names(x: Sources, s: LayerSignals, ledger: Ledger) -> None:
    """Hold against the population whom pairs, cluster and archive matches speak of."""
    ids = [e.expert_id for e in s.experts]
    pairs = [(p.first, p.second) for p in s.pairs]
    if len(ids) <= ALL_PAIRS_UP_TO:
        _same(x, "pairs", list(map(list, pairs)), list(map(list, combinations(ids, 2))))
    _same(x, "cluster", s.cluster, list(_cluster(x, s)))
    known = [r.expert_id for r in ledger.registry.archived(s.layer_id) if r.merged_into is None]
    matched = [m.expert_id for m in s.archive_matches]
    _same(x, "archive_matches", matched, [name for name in known if name in matched])


def _cluster(x: Sources, s: LayerSignals) -> Iterator[str]:
    """Yield the most loaded expert and, above top-1, those most often selected beside it.

    At top-1 the nearest router rows decide, and from 18 experts on the logged co-activations may
    leave one out: then the others are taken as they are.
    """
    usable = {
        e.expert_id: slot
        for slot, e in enumerate(s.experts)
        if e.state is ExpertState.active and not e.ramping
    }
    if not usable:
        return
    source = s.experts[most_loaded([e.share for e in s.experts], [*usable.values()])].expert_id
    yield source
    beside: Mapping[str, float] = x.basins[usable[source]].record["co_activation"]
    if s.top_k == 1 or len(beside) >= ALL_PAIRS_UP_TO:
        yield from s.cluster[1:]
        return
    others = [name for name in usable if name != source]
    yield from sorted(others, key=lambda name: -beside.get(name, 0.0))[:2]


def settled_debt(s: LayerSignals, shares: Sequence[float], control: ControlConfig) -> float:
    """Return the debt of a layer's shares without those of its newest experts."""
    settled = [
        share
        for share, e in zip(shares, s.experts, strict=True)
        if e.state is not ExpertState.cooling and not e.ramping
    ]
    return unresolved_debt(s.layer_id, settled, control)


def check_readings(x: Sources, s: LayerSignals, due: Sequence[Probation]) -> None:
    """Hold the probe's readings against the edits that were due."""
    wanted = [p.seq for p in due if p.layer_id == s.layer_id]
    read = [r.seq for r in s.probations]
    _same(x, "probations", read, [seq for seq in wanted if seq in read])


def _same(x: Sources, field: str, logged: Any, derived: Any) -> None:
    if logged != derived:
        raise Differs(at(x.evaluation, f"signals.{field}", as_json(logged), as_json(derived)))


def _close(x: Sources, field: str, logged: float | None, derived: float | None) -> None:
    if logged is not None and derived is not None:
        scale = max(1.0, abs(derived))
        near(x.evaluation, f"signals.{field}", logged, derived, 1e-9 * scale)
    else:
        _same(x, field, logged, derived)
