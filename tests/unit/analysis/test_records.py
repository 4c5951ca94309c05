"""The readers' records take each line as its owner writes it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from unit.lifecycle.signal_builders import alike, name

from chronorun.analysis.reading.records import (
    Control,
    Decision,
    Evaluation,
    Judged,
    Refused,
    ScenarioEvent,
    Snapshot,
    Transition,
)
from chronorun.governance.decisions import ControlDecision
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.decide.counters import LayerCounters
from chronorun.lifecycle.decide.harm import Judgement
from chronorun.lifecycle.decide.policy_state import Probation
from chronorun.lifecycle.experts.records import TransitionRecord
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import LifecycleDecision
from chronorun.telemetry.snapshots import LayerSnapshot, SystemSnapshot

T = TypeVar("T")


def through(record: Any, kind: type[T]) -> T:
    """Decode as strictly as the fast path does, which names no line and drops no field."""
    return msgspec.json.decode(msgspec.json.encode(record), type=kind)


@pytest.mark.parametrize(
    ("integrated_step", "dry_run", "fate"),
    [(1010, False, "done"), (None, False, "unfinished"), (None, True, "would")],
)
def test_a_decision(integrated_step: int | None, dry_run: bool, fate: str) -> None:
    written = LifecycleDecision(
        step=1000,
        run_id="r",
        action="MERGE",
        layer_id=0,
        expert_id="L0_E0",
        parent_id=None,
        reason="converged",
        metrics_at_decision={"cosine": 0.97},
        config_snapshot={"merge_patience": 3},
        seq=4,
        integrated_step=integrated_step,
        partner_id="L0_E1",
        experts_before=["L0_E0", "L0_E1"],
        experts_after=["L0_E0"],
        receipt={"probe_shock": 0.01},
        dry_run=dry_run,
    )
    read = through(written.to_dict(), Decision)
    for field in ("step", "action", "expert_id", "partner_id", "seq", "integrated_step"):
        assert getattr(read, field) == getattr(written, field)
    assert (read.fate, read.at) == (fate, integrated_step or 1000)
    assert (read.before(), read.experts_after) == (["L0_E0", "L0_E1"], ["L0_E0"])
    assert read.came_and_went() == ((), ("L0_E1",))


def test_an_evaluation() -> None:
    signals = alike((0, 1))
    probation = Probation(4, Action.SPLIT, 0, (name(2),), due=3)
    merge = Candidate(Action.MERGE, 0, name(0), "converged", 3, partner_id=name(1))
    line = {
        "step": 1000,
        "checkpoint": 1,
        "layer_id": 0,
        "cycle": True,
        "candidates": [Verdict(merge, Status.deferred, "warm-up").to_dict()],
        "judgements": [Judgement(probation, 0.5, True).to_dict()],
        "suspects": [],
        "counters": LayerCounters(starvation=2, dormancy={name(3): 1}),
        "patience_multipliers": {"PRUNE": 2},
        "signals": signals,
        "signals_crc32": 1,
    }
    read = through(line, Evaluation)
    (candidate,) = read.candidates
    assert (candidate.action, candidate.status, candidate.held) == ("MERGE", "deferred", 3)
    assert (candidate.partner_id, candidate.why, candidate.seq) == (name(1), "warm-up", None)
    assert (read.counters.starvation, read.counters.dormancy) == (2, {name(3): 1})
    assert read.signals.dispatched == signals.dispatched
    assert [x.expert_id for x in read.signals.experts] == [x.expert_id for x in signals.experts]
    assert [(x.first, x.second, x.cosine) for x in read.signals.pairs] == [
        (x.first, x.second, x.cosine) for x in signals.pairs
    ]
    (judged,) = through(line, Judged).judgements
    assert (judged.seq, judged.realised, judged.harmful) == (4, 0.5, True)
    assert [x.status for x in through(line, Refused).candidates] == ["deferred"]


def test_a_transition() -> None:
    written = TransitionRecord(10, 0, "L0_E2", None, ExpertState.cooling, "split")
    read = through(written.to_dict(), Transition)
    assert (read.before, read.after, read.is_release) == (None, "cooling", False)


@pytest.mark.parametrize("ids", [None, ["L1_E0", "L1_E5"]])
def test_a_snapshot(ids: list[str] | None) -> None:
    layer = LayerSnapshot.from_shares(1, np.array([1.0, 0.0]))
    layer.expert_ids = ids
    read = through(SystemSnapshot(20, 1.5, 2.5, None, [layer], run_id="r"), Snapshot)
    assert (read.step, read.run_id, read.train_loss, read.val_loss) == (20, "r", 2.5, None)
    (found,) = read.layers
    assert (found.layer_id, found.size, found.dead_expert_count) == (1, 2, 1)
    assert (found.utilization_shares, found.expert_ids) == ([1.0, 0.0], ids)


def test_a_control_decision() -> None:
    computed, actuator = {"debt": 0.25, "pressure": 0.5}, {"lens_scale": 0.1}
    read = through(ControlDecision("r", 20, 1, {}, computed, actuator, {}).to_dict(), Control)
    assert (read.step, read.layer_id, read.actuator.lens_scale) == (20, 1, 0.1)
    assert (read.computed.debt, read.computed.pressure) == (0.25, 0.5)


def test_a_scenario_event() -> None:
    line = {"step": 15, "scenario": "capacity_whiplash", "event": "start", "layers": [0, 1]}
    read = through(line | {"top_k": 1}, ScenarioEvent)
    assert (read.step, read.event, read.layers, read.top_k) == (15, "start", [0, 1], 1)
