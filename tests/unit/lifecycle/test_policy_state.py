"""What the policy remembers: exact through JSON, and copies that stand alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from unit.lifecycle.signal_builders import through_json

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.core.state import pack, to_plain
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.counters import LayerCounters
from chronorun.lifecycle.decide.policy_state import (
    LayerPolicy,
    PolicyState,
    Probation,
    due_probations,
)


def full() -> PolicyState:
    return PolicyState(
        checkpoint=12,
        next_seq=5,
        last_spawn_step=800,
        last_split_step={"L0_E1": 600},
        layers={
            0: LayerPolicy(
                LayerCounters(3, {"L0_E1": 2}, {"L0_E1": 1}, {"L0_E1": 1}, {"L0_E2": 4},
                              {"L0_E1|L0_E2": 3}, {"L0_E3": 1}),
                {"SPLIT": 4}, {"PRUNE": 8, "SPLIT": 9}, growth=-1,
            ),
            3: LayerPolicy(),
        },
        probations=[Probation(4, Action.MERGE, 3, ("L3_E0", "L3_E2"), due=15)],
        benefits={"SPLIT": (3, -0.1), "MERGE": (1, 0.1 + 0.2)},
        deferred={"SPLIT L0_E2": "0"},
    )  # fmt: skip


def plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(k) is str and plain(v) for k, v in value.items())
    if type(value) is list:
        return all(plain(v) for v in value)
    return type(value) in (str, int, float, bool, type(None))


def test_a_state_comes_back_from_json_as_it_was() -> None:
    assert through_json(full()) == full()
    assert through_json(PolicyState()) == PolicyState()


def test_the_state_dict_is_plain_data() -> None:
    state = full()
    state.note_edit(Action.SPAWN, 3, 900)
    state.learn(Action.SPAWN, 0.5)
    state.layers[0].multipliers["MERGE"] = 2
    # No enums: a checkpoint is read without this package's classes.
    saved, tensors = pack(to_plain(state))
    assert tensors == {}
    assert plain(saved)
    assert json.loads(json.dumps(saved)) == saved


def test_a_copy_can_change_alone() -> None:
    state = full()
    copy = state.copy()
    copy.note_edit(Action.SPAWN, 0, 900)
    copy.learn(Action.SPLIT, 1.0)
    copy.layers[0].multipliers["SPLIT"] = 8
    copy.layers[0].counters = LayerCounters()
    copy.layers[5] = LayerPolicy()
    copy.last_split_step["L0_E1"] = 1
    copy.probations.clear()
    copy.deferred.clear()
    assert state == full()


@pytest.mark.parametrize(
    ("action", "growth"),
    [
        (Action.SPAWN, 1),
        (Action.REVIVE, 1),
        (Action.SPLIT, 1),
        (Action.PRUNE, -1),
        (Action.MERGE, -1),
    ],
)
def test_an_edit_is_remembered_for_its_layer_and_kind(action: Action, growth: int) -> None:
    state = PolicyState(checkpoint=7, layers={0: LayerPolicy(), 1: LayerPolicy()})
    state.note_edit(action, 1, 700)
    assert state.layers[0] == LayerPolicy()
    assert state.layers[1] == LayerPolicy(last_edits={action: 7}, growth=growth)
    birth = action in (Action.SPAWN, Action.REVIVE)
    assert state.last_spawn_step == (700 if birth else None)
    state.unnote_edit(action, 1)
    assert state.layers[1] == LayerPolicy(last_edits={action: 7}, growth=0)


def test_a_rollback_starts_no_cooldown() -> None:
    state = PolicyState(checkpoint=7, layers={0: LayerPolicy()})
    state.note_edit(Action.ROLLBACK, 0, 700)
    assert state == PolicyState(checkpoint=7, layers={0: LayerPolicy()})


def test_all_experts_of_all_probations_are_barred() -> None:
    state = full()
    state.probations.append(Probation(5, Action.PRUNE, 0, ("L0_E7",), due=16))
    assert state.on_probation() == {"L3_E0", "L3_E2", "L0_E7"}
    assert PolicyState().on_probation() == frozenset()


@pytest.mark.parametrize(
    ("checkpoint", "due", "interval", "asked"),
    [
        (9, 10, 5, True),
        (9, 11, 5, False),
        (14, 11, 5, True),
        (10, 10, 5, False),
        (10, 11, 1, True),
        (10, 12, 1, False),
    ],
)
def test_the_probe_is_asked_of_what_is_due_at_the_coming_cycle(
    checkpoint: int, due: int, interval: int, asked: bool
) -> None:
    probation = Probation(0, Action.SPLIT, 0, ("L0_E0",), due)
    state = PolicyState(checkpoint=checkpoint, probations=[probation])
    config = LifecycleConfig(lifecycle_eval_interval=interval)
    assert due_probations(state, config) == [probation] * asked
