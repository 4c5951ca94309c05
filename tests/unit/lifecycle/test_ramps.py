"""A newborn's logit offset is a function of the step alone."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, strategies as st
from unit.lifecycle.small_run import SmallRun

from chronorun.core.state import from_plain, to_plain
from chronorun.lifecycle.experts.ramps import Ramp


@given(st.integers(0, 1000), st.integers(1, 200), st.floats(-9, 9), st.floats(-9, 0))
def test_it_rises_from_its_start_to_its_base_and_stays(
    born: int, length: int, base: float, start: float
) -> None:
    ramp = Ramp(born, length, base, start)
    offsets = [ramp.offset(born + s) for s in range(length + 3)]
    assert offsets[0] == base + start
    assert offsets[length:] == [base] * 3
    assert offsets == sorted(offsets)
    assert [ramp.is_over(born + s) for s in (0, length - 1, length)] == [False, False, True]
    assert from_plain(Ramp, json.loads(json.dumps(to_plain(ramp)))) == ramp


def test_half_way_is_half_the_offset() -> None:
    assert Ramp(10, 8, 0.5, -5.0).offset(14) == 0.5 - 2.5


def test_a_spawn_comes_in_at_its_start_and_ends_at_its_parents_offset() -> None:
    run = SmallRun()
    run.layers[0].router.logit_offset[0] = 0.25
    run.train(3)
    child = run.spawn(0, ["L0_E0"]).expert_id
    seen = []
    for _ in range(8):
        seen.append(float(run.layers[0].router.logit_offset[run.registry.slot_of(child)]))
        run.train()
    # Set before each forward: what is seen after a step is what was in force in it.
    expected = [-5.0, *(-5.0 * (6 - s) / 6 for s in range(6)), 0.0]
    assert seen == pytest.approx([0.25 + offset for offset in expected])
    assert not run.ledger.ramps


def test_a_ramp_ends_with_its_expert() -> None:
    run = SmallRun()
    run.train(3)
    done = run.spawn(0, ["L0_E0"])
    assert set(run.ledger.ramps) == {done.expert_id}
    run.roll_back(done.seq)
    assert not run.ledger.ramps
    run.train(2)


def test_an_exclusive_child_needs_no_ramp() -> None:
    run = SmallRun()
    run.train(3)
    run.split("L0_E1")
    assert not run.ledger.ramps
    assert torch.equal(run.layers[0].router.logit_offset, torch.zeros(5))
