"""The registry against a few-line model of it, under every list of legal moves."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from chronorun.lifecycle.experts.basins import BasinEntry
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState, LifecycleError

S = ExpertState


def entry_of(checkpoint: int, share: float = 0.25) -> BasinEntry:
    return BasinEntry(
        step=10 * checkpoint,
        checkpoint=checkpoint,
        share=share,
        entropy_contribution=1 / 3,
        token_type_dist=np.full(3, 1 / 3),
        position_dist=np.array([0.1, 0.9]),
        co_activation={"L0_E1": 1 / 7},
        weight_norm=2**0.5,
        weight_delta=1e-300,
    )


def kill(registry: Registry, expert_id: str, step: int = 9) -> int | None:
    registry.transition(expert_id, S.pending_prune, step, "test")
    return registry.remove(expert_id, step)


def refusal(message: str) -> str:
    return f"^{re.escape(message)}$"


# --- what a run starts with


def test_the_first_experts_are_active_in_slot_order_and_logged() -> None:
    registry = Registry([2, 1])
    assert registry.layers() == [0, 1]
    assert registry.slots(0) == ["L0_E0", "L0_E1"]
    assert registry.slots(1) == ["L1_E0"]
    assert {str(r.state) for r in registry.records.values()} == {"active"}
    logged = [t.to_dict() for t in registry.take_transitions()]
    assert logged[2] == {
        "step": 0,
        "layer_id": 1,
        "expert_id": "L1_E0",
        "from": None,
        "to": "active",
        "reason": "initial",
    }
    assert len(logged) == 3
    assert registry.take_transitions() == []


def test_the_basin_window_is_the_configured_one() -> None:
    assert Registry([1], basin_window_size=7)["L0_E0"].basin.window_size == 7


# --- births


def test_a_new_expert_waits_without_a_slot_until_it_is_integrated() -> None:
    registry = Registry([2])
    expected = registry.next_id(0)
    child = registry.add(0, 40, "L0_E1", "overloaded")
    assert child.expert_id == expected == "L0_E2"
    assert (child.state, child.born_step, child.parent_id) == (S.pending_spawn, 40, "L0_E1")
    assert registry["L0_E1"].children == ["L0_E2"]
    assert registry.slots(0) == ["L0_E0", "L0_E1"]
    assert registry.pending(0) == [child]
    with pytest.raises(
        LifecycleError,
        match=refusal(
            "expert L0_E2: state=pending_spawn, expected a live one; only live experts have slots"
        ),
    ):
        registry.slot_of("L0_E2")
    registry.integrate("L0_E2", 41)
    assert child.state is S.cooling
    assert registry.slots(0) == ["L0_E0", "L0_E1", "L0_E2"]
    assert registry.slot_of("L0_E2") == 2
    assert registry.pending(0) == []


def test_an_expert_can_be_integrated_into_a_given_slot() -> None:
    registry = Registry([3])
    registry.add(0, 1, None, "test")
    registry.integrate("L0_E3", 2, slot=1)
    assert registry.slots(0) == ["L0_E0", "L0_E3", "L0_E1", "L0_E2"]


def test_a_birth_is_logged_as_coming_from_nothing() -> None:
    registry = Registry([1])
    registry.take_transitions()
    registry.add(0, 5, "L0_E0", "overloaded")
    (logged,) = registry.take_transitions()
    assert logged.to_dict()["from"] is None
    assert logged.to_dict()["to"] == "pending_spawn"


def test_a_birth_from_an_archived_expert_is_a_new_id_and_leaves_that_one_archived() -> None:
    registry = Registry([2])
    kill(registry, "L0_E1")
    registry.take_transitions()
    child = registry.add(0, 20, "L0_E1", "starving")
    assert (child.expert_id, child.parent_id) == ("L0_E2", "L0_E1")
    assert registry["L0_E1"].state is S.archived
    assert [t.to_dict() for t in registry.take_transitions()] == [
        {
            "step": 20,
            "layer_id": 0,
            "expert_id": "L0_E2",
            "from": "archived",
            "to": "pending_spawn",
            "reason": "starving",
        }
    ]


@pytest.mark.parametrize("parent_id", ["L0_E7", "L0_E2"], ids=["unknown", "the child itself"])
def test_a_birth_with_an_unknown_parent_leaves_no_trace(parent_id: str) -> None:
    registry = Registry([2])
    before = registry.state_dict()
    with pytest.raises(
        LifecycleError,
        match=refusal(
            f"registry: expert_id={parent_id}, expected one that was registered; "
            f"ids look like L0_E3"
        ),
    ):
        registry.add(0, 5, parent_id, "test")
    assert registry.state_dict() == before
    assert registry.next_id(0) == "L0_E2"


# --- deaths and returns


def test_a_removed_expert_frees_its_slot_and_keeps_its_record() -> None:
    registry = Registry([3])
    registry["L0_E1"].basin.append(entry_of(1))
    assert kill(registry, "L0_E1", step=77) == 1
    assert registry.slots(0) == ["L0_E0", "L0_E2"]
    assert registry.slot_of("L0_E2") == 1
    record = registry["L0_E1"]
    assert (record.state, record.died_step, record.merged_into) == (S.archived, 77, None)
    assert [e.checkpoint for e in record.basin.entries] == [1]
    assert registry.archived(0) == [record]
    assert registry.next_id(0) == "L0_E3"


def test_the_expert_that_a_merge_absorbed_names_its_survivor() -> None:
    registry = Registry([2])
    registry.transition("L0_E1", S.pending_prune, 8, "converged")
    registry.take_transitions()
    registry.remove("L0_E1", 8, merged_into="L0_E0")
    assert registry["L0_E1"].merged_into == "L0_E0"
    assert [t.reason for t in registry.take_transitions()] == ["merged into L0_E0"]


def test_a_birth_rolled_back_before_its_integration_had_no_slot() -> None:
    registry = Registry([2])
    registry.add(0, 5, None, "test")
    registry.transition("L0_E2", S.pending_prune, 6, "rolled back")
    assert registry.remove("L0_E2", 6) is None
    assert registry.slots(0) == ["L0_E0", "L0_E1"]
    assert registry["L0_E2"].state is S.archived


def test_an_archived_expert_comes_back_under_its_own_id_as_if_it_had_not_died() -> None:
    registry = Registry([3])
    registry.transition("L0_E1", S.pending_prune, 8, "converged")
    registry.remove("L0_E1", 8, merged_into="L0_E0")
    registry.restore("L0_E1", 12, "rolled back", slot=1)
    record = registry["L0_E1"]
    assert (record.state, record.died_step, record.merged_into) == (S.active, None, None)
    assert registry.slots(0) == ["L0_E0", "L0_E1", "L0_E2"]
    assert registry.archived(0) == []


def test_a_revived_expert_takes_the_last_slot() -> None:
    registry = Registry([3])
    kill(registry, "L0_E0")
    registry.restore("L0_E0", 12, "revived")
    assert registry.slots(0) == ["L0_E1", "L0_E2", "L0_E0"]


def test_archived_experts_are_listed_in_the_order_of_their_births() -> None:
    registry = Registry([12])
    for expert_id in ("L0_E10", "L0_E2", "L0_E9"):
        kill(registry, expert_id)
    assert [r.expert_id for r in registry.archived(0)] == ["L0_E2", "L0_E9", "L0_E10"]


# --- moves that are refused change nothing


@pytest.mark.parametrize(
    ("move", "state", "expected"),
    [
        # Both end in states that the expert could go to: it has its slot already.
        (lambda registry: registry.integrate("L0_E0", 2), S.active, "pending_spawn"),
        (lambda registry: registry.restore("L0_E0", 2, "test"), S.cooling, "archived"),
        (lambda registry: registry.restore("L0_E0", 2, "test"), S.dormant, "archived"),
    ],
    ids=["integrated twice", "restored while cooling", "restored while dormant"],
)
def test_an_expert_is_not_given_a_second_slot(
    move: Callable[[Registry], None], state: ExpertState, expected: str
) -> None:
    registry = Registry([2])
    if state is not S.active:
        registry.transition("L0_E0", state, 1, "test")
    before = registry.state_dict()
    with pytest.raises(
        LifecycleError,
        match=refusal(
            f"expert L0_E0: state={state}, expected {expected}; this is a bug in the caller"
        ),
    ):
        move(registry)
    assert registry.state_dict() == before


def test_a_transition_that_is_not_allowed_changes_nothing() -> None:
    registry = Registry([2])
    registry.pair("L0_E0", "L0_E1")
    before = registry.state_dict()
    for refused in (
        lambda: registry.transition("L0_E0", S.archived, 3, "test"),
        lambda: registry.remove("L0_E0", 3),
    ):
        with pytest.raises(
            LifecycleError,
            match=refusal(
                "expert L0_E0: state=archived, expected cooling or dormant or pending_prune after "
                "active; this is a bug in the caller"
            ),
        ):
            refused()
    assert registry.state_dict() == before


def test_an_id_that_never_was_is_named() -> None:
    with pytest.raises(
        LifecycleError,
        match=refusal(
            "registry: expert_id=L9_E9, expected one that was registered; ids look like L0_E3"
        ),
    ):
        Registry([2])["L9_E9"]


def test_a_change_of_state_starts_its_count_of_checkpoints_anew() -> None:
    registry = Registry([2])
    registry["L0_E0"].checkpoints_in_state = 4
    registry.transition("L0_E0", S.dormant, 3, "no share")
    assert registry["L0_E0"].checkpoints_in_state == 0


# --- twins


def test_exclusive_twins_are_one_group_until_released() -> None:
    registry = Registry([3])
    registry.pair("L0_E1", "L0_E2")
    assert registry.groups(0) == [("L0_E0",), ("L0_E1", "L0_E2")]
    registry.release("L0_E2")
    assert registry.groups(0) == [("L0_E0",), ("L0_E1",), ("L0_E2",)]


@pytest.mark.parametrize("gone", ["L0_E1", "L0_E2"])
def test_the_removal_of_either_twin_ends_the_pair(gone: str) -> None:
    registry = Registry([3])
    registry.pair("L0_E1", "L0_E2")
    kill(registry, gone)
    left = "L0_E2" if gone == "L0_E1" else "L0_E1"
    assert registry.groups(0) == [("L0_E0",), (left,)]


def test_releasing_one_pair_leaves_the_others() -> None:
    registry = Registry([5])
    registry.pair("L0_E0", "L0_E3")
    registry.pair("L0_E1", "L0_E4")
    registry.release("L0_E0")
    registry.release("L0_E2")
    assert registry.twins == {"L0_E4": "L0_E1"}


@pytest.mark.parametrize(
    ("parent_id", "child_id", "taken"),
    [("L0_E0", "L0_E2", "L0_E0"), ("L0_E1", "L0_E2", "L0_E1"), ("L0_E2", "L0_E0", "L0_E0")],
)
def test_an_expert_is_the_twin_of_one_other_only(parent_id: str, child_id: str, taken: str) -> None:
    registry = Registry([3])
    registry.pair("L0_E0", "L0_E1")
    with pytest.raises(
        LifecycleError,
        match=refusal(f"expert {taken}: twin=True, expected no pairing yet; release it first"),
    ):
        registry.pair(parent_id, child_id)
    assert registry.groups(0) == [("L0_E0", "L0_E1"), ("L0_E2",)]


# --- handles to weights


def test_a_weight_handle_resolves_layer_and_id_at_each_call() -> None:
    registry = Registry([1, 2])
    handle = registry["L1_E1"].weight_ref
    assert handle() is None
    registry.resolver = lambda layer_id, expert_id: (layer_id, expert_id, "then")
    assert handle() == (1, "L1_E1", "then")
    registry.resolver = lambda layer_id, expert_id: (layer_id, expert_id, "now")
    assert handle() == (1, "L1_E1", "now")
    assert repr(handle) == "WeightRef(L1_E1)"


def test_a_weight_handle_is_dead_while_its_expert_is_archived() -> None:
    registry = Registry([2])
    registry.resolver = lambda _layer_id, expert_id: expert_id
    handle = registry["L0_E1"].weight_ref
    registry.transition("L0_E1", S.pending_prune, 3, "test")
    assert handle() == "L0_E1"
    registry.remove("L0_E1", 3)
    assert handle() is None
    registry.restore("L0_E1", 5, "revived")
    assert handle() == "L0_E1"


def test_a_waiting_expert_has_weights_already() -> None:
    registry = Registry([1])
    registry.resolver = lambda _layer_id, expert_id: expert_id
    assert registry.add(0, 3, None, "test").weight_ref() == "L0_E1"


def test_a_weight_handle_keeps_nothing_alive() -> None:
    registry = Registry([1])
    registry.resolver = lambda _layer_id, expert_id: expert_id
    handle = registry["L0_E0"].weight_ref
    del registry
    gc.collect()
    assert handle() is None


# --- any list of legal moves

NEXT = {
    S.cooling: (S.active, S.pending_prune),
    S.active: (S.dormant, S.cooling, S.pending_prune),
    S.dormant: (S.active, S.pending_prune),
    S.pending_spawn: (S.pending_prune,),
}


@dataclass
class Model:
    """What the registry should say, kept in the plainest way."""

    states: dict[str, ExpertState] = field(default_factory=dict)
    slots: list[list[str]] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    log: list[tuple[str, str | None, str]] = field(default_factory=list)

    def move(self, expert_id: str, before: str | None, after: ExpertState) -> None:
        self.states[expert_id] = after
        self.log.append((expert_id, before, str(after)))


def layer_of(expert_id: str) -> int:
    return int(expert_id[1 : expert_id.index("_")])


def play(registry: Registry, model: Model, step: int, pick: Any) -> None:
    """Make one legal move, chosen by ``pick(options)``, in the registry and in the model."""
    kind = pick(["add", "move", "move", "move", "move", "pair", "release"])
    if kind == "add":
        layer_id = pick(range(len(model.slots)))
        parent = pick([None, *(i for i in model.states if layer_of(i) == layer_id)])
        new = registry.add(layer_id, step, parent, "test").expert_id
        assert new not in model.states
        archived = parent is not None and model.states[parent] is S.archived
        model.move(new, "archived" if archived else None, S.pending_spawn)
        return
    if kind == "pair":
        free = [
            i for slots in model.slots for i in slots if all(i not in pair for pair in model.pairs)
        ]
        parent = pick([None, *free])
        near = [i for i in free if parent and i != parent and layer_of(i) == layer_of(parent)]
        if parent is not None and near:
            child = pick(near)
            registry.pair(parent, child)
            model.pairs.append((parent, child))
        return
    expert_id = pick(sorted(model.states))
    state, slots = model.states[expert_id], model.slots[layer_of(expert_id)]
    if kind == "release":
        registry.release(expert_id)
        model.pairs = [pair for pair in model.pairs if expert_id not in pair]
    elif state is S.archived or (state is S.pending_spawn and pick([True, False])):
        slot = pick([None, *range(len(slots) + 1)])
        if state is S.archived:
            registry.restore(expert_id, step, "test", slot)
        else:
            registry.integrate(expert_id, step, slot)
        slots.insert(len(slots) if slot is None else slot, expert_id)
        model.move(expert_id, str(state), S.active if state is S.archived else S.cooling)
    elif state is S.pending_prune:
        at = slots.index(expert_id) if expert_id in slots else None
        assert registry.remove(expert_id, step) == at
        if at is not None:
            del slots[at]
        model.pairs = [pair for pair in model.pairs if expert_id not in pair]
        model.move(expert_id, str(state), S.archived)
    else:
        after = pick(NEXT[state])
        registry.transition(expert_id, after, step, "test")
        model.move(expert_id, str(state), after)


def start(sizes: list[int]) -> tuple[Registry, Model]:
    registry, model = Registry(sizes, basin_window_size=3), Model()
    for layer_id, size in enumerate(sizes):
        model.slots.append([f"L{layer_id}_E{e}" for e in range(size)])
        for expert_id in model.slots[-1]:
            model.move(expert_id, None, S.active)
    return registry, model


def check(registry: Registry, model: Model) -> None:
    assert {i: r.state for i, r in registry.records.items()} == model.states
    for layer_id, slots in enumerate(model.slots):
        assert registry.slots(layer_id) == slots
        assert [r.expert_id for r in registry.live(layer_id)] == slots
        assert [registry.slot_of(i) for i in slots] == list(range(len(slots)))
        children = [child for _parent, child in model.pairs]
        assert registry.groups(layer_id) == [
            next((pair for pair in model.pairs if pair[0] == i), (i,))
            for i in slots
            if i not in children
        ]
    for expert_id, state in model.states.items():
        holds = expert_id in model.slots[layer_of(expert_id)]
        # Live experts have a slot; one rolled back before its integration never got one.
        if state in (S.cooling, S.active, S.dormant):
            assert holds
        if state in (S.pending_spawn, S.archived):
            assert not holds
        assert (registry[expert_id].died_step is not None) == (state is S.archived)


def through_json(registry: Registry) -> Registry:
    loaded = Registry([])
    loaded.load_state_dict(json.loads(json.dumps(registry.state_dict(), allow_nan=False)))
    return loaded


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=2)


@settings(max_examples=150, deadline=None)
@given(sizes=sizes, n_moves=st.integers(0, 40), data=st.data())
def test_after_any_legal_moves_ids_are_unique_and_slots_hold_the_live_experts(
    sizes: list[int], n_moves: int, data: st.DataObject
) -> None:
    registry, model = start(sizes)
    for step in range(n_moves):
        play(registry, model, step, lambda options: data.draw(st.sampled_from(list(options))))
        check(registry, model)
    logged = [t.to_dict() for t in registry.take_transitions()]
    assert [(t["expert_id"], t["from"], t["to"]) for t in logged] == model.log


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, n_moves=st.integers(0, 25), cut=st.integers(0, 25), data=st.data())
def test_a_registry_read_back_from_json_is_the_same_and_goes_on_the_same(
    sizes: list[int], n_moves: int, cut: int, data: st.DataObject
) -> None:
    registry, model = start(sizes)
    drawn: list[Any] = []

    def pick(options: Any) -> Any:
        drawn.append(data.draw(st.sampled_from(list(options))))
        return drawn[-1]

    for step in range(cut):
        play(registry, model, step, pick)
        newest = registry[pick(sorted(model.states))]
        newest.basin.append(entry_of(step))
        newest.checkpoints_in_state += 1
    loaded = through_json(registry)
    assert loaded.state_dict() == registry.state_dict()
    twin = Model(dict(model.states), [list(s) for s in model.slots], list(model.pairs))
    for step in range(cut, cut + n_moves):
        drawn.clear()
        play(registry, model, step, pick)
        again = iter(drawn.copy())
        play(loaded, twin, step, lambda _options, again=again: next(again))
    check(loaded, model)
    assert loaded.state_dict() == registry.state_dict()


def test_state_that_is_read_back_has_the_types_it_had() -> None:
    registry = Registry([2, 1], basin_window_size=2)
    for checkpoint in range(3):
        registry["L0_E1"].basin.append(entry_of(checkpoint))
    registry.transition("L0_E0", S.dormant, 3, "no share")
    registry.add(0, 4, "L0_E1", "overloaded")
    loaded = through_json(registry)
    assert loaded.basin_window_size == 2
    assert loaded["L0_E2"].state is S.pending_spawn
    basin = loaded["L0_E1"].basin
    assert (basin.window_size, [e.checkpoint for e in basin.entries]) == (2, [1, 2])
    assert np.array_equal(basin.entries[0].token_type_dist, np.full(3, 1 / 3))
    logged = loaded.take_transitions()
    assert logged == registry.take_transitions()
    assert (logged[-2].before, logged[-1].before) == (S.active, None)
    assert isinstance(logged[-2].before, ExpertState)
    assert logged[-1].after is S.pending_spawn


def test_a_saved_state_is_cut_off_from_the_registry_that_goes_on() -> None:
    registry = Registry([2])
    registry["L0_E0"].basin.append(entry_of(1))
    saved = registry.state_dict()
    text = json.dumps(saved)
    registry.add(0, 4, "L0_E0", "overloaded")
    registry.integrate("L0_E2", 5)
    registry.pair("L0_E0", "L0_E2")
    registry["L0_E0"].basin.append(entry_of(2))
    assert json.dumps(saved) == text


def test_loading_keeps_the_resolver_and_revives_handles_held_elsewhere() -> None:
    registry = Registry([2])
    registry.resolver = lambda _layer_id, expert_id: expert_id
    handle = registry["L0_E1"].weight_ref
    registry.load_state_dict(Registry([3]).state_dict())
    assert handle() == "L0_E1"
    assert registry["L0_E2"].weight_ref() == "L0_E2"


def test_the_experts_that_left_do_not_keep_their_histograms() -> None:
    registry = Registry([2], basin_window_size=50)
    histograms = np.ones((50, 2, 256))
    for checkpoint, layer in enumerate(histograms):
        for slot, expert_id in enumerate(registry.slots(0)):
            entry = replace(entry_of(checkpoint), token_type_dist=layer[slot])
            registry[expert_id].basin.append(entry)
    kill(registry, "L0_E1")
    kept = [e.token_type_dist for e in registry["L0_E1"].basin.entries]
    assert sum(bool(dist.any()) for dist in kept) == 1
    assert all(dist.base is None for dist in kept)
    assert all(e.token_type_dist.any() for e in registry["L0_E0"].basin.entries)
