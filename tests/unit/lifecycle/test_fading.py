"""Experts that still get tokens fade out before they are removed."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load, save
from unit.lifecycle.small_run import SmallRun, same

from chronorun.core.state import pack, unpack
from chronorun.lifecycle.decide.actions import Action, Candidate
from chronorun.lifecycle.edit.saved import Edit
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import LifecycleDecision

RAMP = 6


def twins(top_k: int = 2) -> SmallRun:
    """Return a trained run in which L0_E2 is a copy of L0_E1."""
    run = SmallRun(top_k=top_k)
    run.train(20)
    copy = run.surgeon.read("L0_E1")
    run.surgeon.apply(Edit(0, write={"L0_E2": copy}))
    run.train(2)
    return run


def merge(run: SmallRun) -> LifecycleDecision:
    c = Candidate(
        Action.MERGE,
        0,
        "L0_E1",
        "converged",
        1,
        partner_id="L0_E2",
        metrics={"share": 0.3, "partner_share": 0.2},
    )
    return run.population.carry_out(c, run.decision(c), RAMP)


def test_a_merge_of_experts_that_tokens_choose_together_fades_one_out() -> None:
    run = twins()
    before = run.all_live()
    decision = merge(run)
    assert decision.integrated_step is None
    assert [run.registry[n].state for n in ("L0_E1", "L0_E2")] == [
        ExpertState.cooling,
        ExpertState.pending_prune,
    ]
    first, second = (run.everything(name) for name in ("L0_E1", "L0_E2"))
    assert torch.equal(first["experts.w1"], second["experts.w1"])
    for name in ("L0_E1", "L0_E2"):
        for key, value in run.everything(name).items():
            if key.startswith("router."):
                assert torch.equal(value, before[name][key])
    assert run.population.begin_step(run.step + RAMP - 1) == []

    run.train(RAMP)
    assert run.ledger.ramps["L0_E2"].offset(run.step) <= run.config.spawn_ramp_offset
    run.population.set_ramps(run.step)
    (done,) = run.population.begin_step(run.step)
    assert done.integrated_step == decision.step + RAMP
    assert done.experts_after == ["L0_E0", "L0_E1", "L0_E3"]
    assert run.registry["L0_E2"].merged_into == "L0_E1"
    assert abs(done.receipt["averaged"]["probe_shock"]) < 1e-3
    assert done.receipt["probe_share"]["L0_E2"][0] < 0.05
    run.train(2)


def test_going_back_on_a_faded_merge_restores_both() -> None:
    run = twins()
    before = run.all_live()
    decision = merge(run)
    run.train(RAMP)
    run.population.begin_step(run.step)
    run.roll_back(decision.seq)
    assert run.registry.slots(0) == ["L0_E0", "L0_E1", "L0_E3", "L0_E2"]
    for name in ("L0_E1", "L0_E2"):
        assert same(run.everything(name), before[name])


def test_at_top_1_no_token_chooses_both_and_the_merge_is_made_at_once() -> None:
    run = twins(top_k=1)
    assert merge(run).integrated_step == run.step
    assert run.registry.slots(0) == ["L0_E0", "L0_E1", "L0_E3"]


def test_a_run_resumed_while_an_expert_fades_goes_on_bit_equal() -> None:
    run = twins()
    merge(run)
    run.train(2)
    plain, tensors = pack(
        {"population": run.population.state_dict(), "registry": run.registry.state_dict()}
    )
    copied = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    state = unpack(json.loads(json.dumps(plain)), load(save(copied)))
    again = twins()
    again.train(2)
    again.registry.load_state_dict(state["registry"])
    again.model.load_state_dict(run.model.state_dict())
    for mine, theirs in zip(again.model.parameters(), run.model.parameters(), strict=True):
        again.optimizer.state[mine] = {
            key: value.clone() for key, value in run.optimizer.state[theirs].items()
        }
    again.population.load_state_dict(state["population"])
    for one in (run, again):
        one.train(RAMP - 2)
        one.population.set_ramps(one.step)
    done = [one.population.begin_step(one.step) for one in (run, again)]
    assert done[0] == done[1]
    assert len(done[0]) == 1
    assert run.train(2) == again.train(2)
