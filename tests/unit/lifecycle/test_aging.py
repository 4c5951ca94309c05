"""How experts change state by themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from chronorun.lifecycle.experts.aging import settle, tick
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState

S = ExpertState


def checkpoint(
    registry: Registry, shares: Sequence[float], step: int = 0, ramping: Collection[str] = ()
) -> list[ExpertState]:
    tick(registry, 0)
    settle(registry, 0, shares, ramping, step, cooling_period=3)
    return [record.state for record in registry.live(0)]


def with_newborn() -> Registry:
    registry = Registry([2, 2])
    registry.add(0, 50, "L0_E0", "overloaded")
    registry.integrate("L0_E2", 51)
    registry.take_transitions()
    return registry


def test_a_newborn_cools_for_its_checkpoints() -> None:
    registry = with_newborn()
    states = [checkpoint(registry, [0.4, 0.4, 0.2])[2] for _ in range(4)]
    assert states == [S.cooling, S.cooling, S.active, S.active]


def test_a_newborn_without_share_cools_first_and_falls_dormant_then() -> None:
    registry = with_newborn()
    states = [checkpoint(registry, [0.5, 0.5, 0.0])[2] for _ in range(4)]
    assert states == [S.cooling, S.cooling, S.active, S.dormant]


def test_twins_cool_until_they_are_released() -> None:
    registry = with_newborn()
    registry.pair("L0_E0", "L0_E2")
    for _ in range(6):
        assert checkpoint(registry, [0.4, 0.4, 0.2])[2] is S.cooling
    registry.release("L0_E2")
    assert checkpoint(registry, [0.4, 0.4, 0.2])[2] is S.active


@pytest.mark.parametrize("shares", [[0.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
def test_members_of_a_pair_do_not_fall_dormant_one_by_one(shares: list[float]) -> None:
    registry = with_newborn()
    registry.pair("L0_E0", "L0_E2")
    for _ in range(5):
        assert checkpoint(registry, shares)[0] is S.active


def test_an_expert_without_share_is_dormant_and_with_share_active_again() -> None:
    registry = Registry([2])
    assert checkpoint(registry, [1.0, 0.0]) == [S.active, S.dormant]
    assert checkpoint(registry, [1.0, 0.0]) == [S.active, S.dormant]
    assert checkpoint(registry, [1.0, 1e-9]) == [S.active, S.active]


def test_a_ramp_keeps_an_expert_from_falling_dormant() -> None:
    registry = Registry([2])
    assert checkpoint(registry, [1.0, 0.0], ramping=["L0_E1"]) == [S.active, S.active]
    assert checkpoint(registry, [1.0, 0.0]) == [S.active, S.dormant]


def test_one_layer_ages_alone() -> None:
    registry = with_newborn()
    checkpoint(registry, [0.4, 0.4, 0.2])
    assert [r.checkpoints_in_state for r in registry.live(0)] == [1, 1, 1]
    assert [r.checkpoints_in_state for r in registry.live(1)] == [0, 0]


def test_a_survivor_of_a_merge_cools_anew() -> None:
    registry = Registry([3])
    for _ in range(5):
        checkpoint(registry, [0.3, 0.3, 0.4])
    registry.transition("L0_E0", S.cooling, 500, "absorbed L0_E1")
    states = [checkpoint(registry, [0.3, 0.3, 0.4])[0] for _ in range(3)]
    assert states == [S.cooling, S.cooling, S.active]


def test_every_change_is_logged_with_its_reason() -> None:
    registry = with_newborn()
    for step in (100, 200, 300):
        checkpoint(registry, [1.0, 0.0, 0.0], step)
    checkpoint(registry, [0.5, 0.5, 0.0], 400)
    assert [
        (t.step, t.expert_id, t.before, t.after, t.reason) for t in registry.take_transitions()
    ] == [
        (100, "L0_E1", S.active, S.dormant, "no share"),
        (300, "L0_E2", S.cooling, S.active, "cooling over"),
        (400, "L0_E1", S.dormant, S.active, "share again"),
        (400, "L0_E2", S.active, S.dormant, "no share"),
    ]


def test_one_that_leaves_stays_as_it_is() -> None:
    registry = Registry([2])
    registry.transition("L0_E1", S.pending_prune, 10, "rolled back")
    assert checkpoint(registry, [1.0, 0.0]) == [S.active, S.pending_prune]
    assert checkpoint(registry, [0.5, 0.5]) == [S.active, S.pending_prune]
