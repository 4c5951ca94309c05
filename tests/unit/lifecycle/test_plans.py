"""Plans that decide edits in the policy's place: doubling, yoked and sham."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from signal_builders import dead, done, eager, expert, healthy, layer, name

from chronorun.lifecycle.decide.actions import Action, Status
from chronorun.lifecycle.decide.cycle import Outcome
from chronorun.lifecycle.decide.plans import PlannedEdit, double, follow
from chronorun.lifecycle.decide.policy_state import PolicyState
from chronorun.lifecycle.decide.signals import ArchiveMatch, LayerSignals
from chronorun.lifecycle.experts.states import ExpertState

STEP = 100


def two_layers(step: int = STEP, **more: Any) -> list[LayerSignals]:
    return [healthy(4, layer_id, step=step, **more) for layer_id in (0, 1)]


def once(
    *actions: Action,
    signals: list[LayerSignals] | None = None,
    seed: int = 0,
    sham: bool = False,
    **config: Any,
) -> Outcome:
    plan = [PlannedEdit(STEP, action, seq) for seq, action in enumerate(actions)]
    decide = follow(plan, seed, sham=sham)
    _, outcome = decide(PolicyState(), signals or two_layers(), eager(**config), 0)
    return outcome


def test_nothing_is_decided_where_nothing_is_planned() -> None:
    decide = follow([PlannedEdit(STEP, Action.SPLIT, 0)], 0)
    state, outcome = decide(PolicyState(), two_layers(step=STEP + 1), eager(), 0)
    assert (outcome.verdicts, outcome.is_cycle) == ([], False)
    assert (state.checkpoint, state.next_seq) == (1, 0)


def test_a_plan_leaves_the_state_that_it_was_given_as_it_was() -> None:
    before = PolicyState()
    follow([PlannedEdit(STEP, Action.SPLIT, 0)], 0)(before, two_layers(), eager(), 0)
    assert before == PolicyState()


@pytest.mark.parametrize("action", [Action.SPLIT, Action.PRUNE, Action.MERGE, Action.SPAWN])
def test_the_kind_is_the_planned_one(action: Action) -> None:
    outcome = once(action)
    assert [v.candidate.action for v in outcome.executed()] == [action]
    assert outcome.is_cycle


def test_the_same_seed_draws_the_same_targets_and_others_do_not() -> None:
    draws = {seed: done(once(Action.PRUNE, seed=seed)) for seed in range(20)}
    assert draws[3] == done(once(Action.PRUNE, seed=3))
    assert len({str(d) for d in draws.values()}) > 4


def test_targets_are_drawn_evenly_over_all_layers() -> None:
    seen = Counter(
        once(Action.PRUNE, seed=s).executed()[0].candidate.expert_id for s in range(1600)
    )
    assert set(seen) == {name(e, i) for e in range(4) for i in (0, 1)}
    # 200 expected for each of the eight; five standard deviations are 66.
    assert all(abs(n - 200) < 66 for n in seen.values())


def test_only_one_edit_is_made_per_layer_and_checkpoint() -> None:
    outcome = once(Action.SPLIT, Action.SPLIT, Action.SPLIT)
    assert sorted(v.candidate.layer_id for v in outcome.executed()) == [0, 1]
    last = outcome.verdicts[-1]
    assert (last.status, last.why) == (Status.blocked, "no expert is eligible")


def test_an_infeasible_edit_is_logged_and_not_replaced() -> None:
    outcome = once(Action.REVIVE)
    assert [(v.candidate.action, v.status, v.why) for v in outcome.verdicts] == [
        (Action.REVIVE, Status.blocked, "no expert is eligible")
    ]
    assert outcome.executed() == []


def test_an_archived_expert_may_be_revived() -> None:
    archived = layer(
        [expert(e) for e in range(4)], step=STEP, archive_matches=[ArchiveMatch("L0_E7", 0.1)]
    )
    assert done(once(Action.REVIVE, signals=[archived])) == [("REVIVE", "L0_E7")]


@pytest.mark.parametrize("action", [Action.SPLIT, Action.SPAWN, Action.REVIVE])
def test_no_layer_grows_beyond_its_cap(action: Action) -> None:
    assert once(action, max_experts_per_layer=4).executed() == []


@pytest.mark.parametrize("action", [Action.PRUNE, Action.MERGE])
def test_no_layer_shrinks_below_its_floor(action: Action) -> None:
    assert once(action, min_experts_per_layer=4).executed() == []
    assert once(action, signals=two_layers(max_top_k=4)).executed() == []


def test_twins_cooling_and_ramping_experts_are_no_targets() -> None:
    experts = [
        expert(0, ramping=True),
        expert(1, state=ExpertState.cooling),
        expert(2),
        expert(3, twin_of="L0_E2"),
    ]
    signals = layer(experts, step=STEP)
    assert once(Action.SPLIT, signals=[signals]).executed() == []


def test_a_dead_expert_may_be_pruned_by_chance() -> None:
    drawn = {
        once(Action.PRUNE, signals=[dead(1, step=STEP)], seed=s).executed()[0].candidate.expert_id
        for s in range(40)
    }
    assert drawn == {name(e) for e in range(4)}


def test_the_older_of_a_merged_pair_survives() -> None:
    signals = layer([expert(0, born_step=50), expert(1, born_step=10)], step=STEP)
    outcome = once(Action.MERGE, signals=[signals], min_experts_per_layer=1)
    candidate = outcome.executed()[0].candidate
    assert (candidate.expert_id, candidate.partner_id) == (name(1), name(0))
    assert candidate.metrics == {"share": 0.25, "partner_share": 0.25}


def test_a_rollback_undoes_an_edit_of_this_run_at_the_end_of_its_probation() -> None:
    plan = [PlannedEdit(STEP, Action.SPLIT, 0), PlannedEdit(3 * STEP, Action.ROLLBACK, 1)]
    config = eager(probation_checkpoints=2, cooling_period=1, lifecycle_eval_interval=1)
    decide, state = follow(plan, 0), PolicyState()
    for step in (STEP, 2 * STEP, 3 * STEP):
        state, outcome = decide(state, two_layers(step=step), config, 0)
    assert [(v.candidate.action, v.candidate.undoes) for v in outcome.executed()] == [
        (Action.ROLLBACK, 0)
    ]
    assert [p.seq for p in state.probations] == []


def test_what_a_later_edit_touched_cannot_be_rolled_back() -> None:
    one = [layer([expert(0), expert(1)], step=STEP * n) for n in (1, 2, 3)]
    plan = [
        PlannedEdit(STEP, Action.MERGE, 0),
        PlannedEdit(2 * STEP, Action.SPLIT, 1),
        PlannedEdit(3 * STEP, Action.ROLLBACK, 2),
    ]
    config = eager(probation_checkpoints=1, cooling_period=1, min_experts_per_layer=1)
    decide, state = follow(plan, 0), PolicyState()
    for signals in one:
        state, outcome = decide(state, [signals], config, 0)
    # The merge's term is over, and the split's is not.
    assert [p.seq for p in state.probations] == [1]
    assert outcome.executed() == []


def test_a_sham_makes_no_edit_and_treats_one_expert_for_each() -> None:
    outcome = once(Action.SPLIT, Action.PRUNE, sham=True)
    assert outcome.executed() == []
    assert [v.status for v in outcome.verdicts] == [Status.sham, Status.sham]
    assert [v.candidate.action for v in outcome.verdicts] == [Action.SPLIT, Action.PRUNE]
    assert sorted(layer_id for layer_id, _ in outcome.treated) == [0, 1]


def test_a_sham_does_not_mind_the_cap() -> None:
    assert len(once(Action.SPLIT, sham=True, max_experts_per_layer=4).treated) == 1


def test_doubling_splits_every_expert_once() -> None:
    decide, state = double(STEP), PolicyState()
    counts = []
    for step in (STEP - 1, STEP, STEP + 1):
        state, outcome = decide(state, two_layers(step=step), eager(max_experts_per_layer=4), 0)
        counts.append(len(outcome.executed()))
        if step == STEP:
            pairs = [(v.candidate.parent_id, v.candidate.expert_id) for v in outcome.executed()]
    assert counts == [0, 8, 0]
    assert pairs[:4] == [(name(e), name(99 + e)) for e in range(4)]
