"""Do no harm: what an edit is worth, when it is undone, and what is learnt of it."""

from __future__ import annotations

import pytest
from unit.lifecycle.signal_builders import (
    Policy,
    alike,
    dead,
    done,
    eager,
    healthy,
    hogged,
    starving,
    told,
    view_of,
    why,
    with_experts,
)

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle.decide.actions import Action, Status
from chronorun.lifecycle.decide.harm import is_harm, judge, learn, reading_of
from chronorun.lifecycle.decide.policy_state import LayerPolicy, PolicyState, Probation
from chronorun.lifecycle.decide.signals import ProbationReading

CONFIG = LifecycleConfig()
SPLIT = Probation(4, Action.SPLIT, 0, ("L0_E3", "L0_E1"), due=5)
PRUNE = Probation(4, Action.PRUNE, 0, ("L0_E9",), due=5)


def reading(benefit: float, restored: float | None = 2.0) -> ProbationReading:
    return ProbationReading(4, 2.0 + benefit, 2.0, restored)


@pytest.mark.parametrize(
    ("benefit", "harm"), [(-1.0, False), (0.0, False), (0.0099, False), (0.0101, True), (1.0, True)]
)
def test_harm_is_a_rise_beyond_the_relative_tolerance(benefit: float, harm: bool) -> None:
    assert is_harm(reading(benefit), CONFIG) is harm


def test_no_harm_at_the_tolerance_itself() -> None:
    config = LifecycleConfig(harm_tolerance=0.5)
    assert not is_harm(ProbationReading(0, 3.0, 2.0), config)
    assert is_harm(ProbationReading(0, 3.0625, 2.0), config)
    assert not is_harm(ProbationReading(0, 2.0, 2.0), LifecycleConfig(harm_tolerance=0.0))


def test_realised_benefit_compares_the_same_weights_with_and_without_the_edit() -> None:
    assert ProbationReading(0, 1.75, 2.0).realised_benefit == -0.25


def test_a_harmless_edit_stays() -> None:
    judged = judge(view_of(healthy(), CONFIG), SPLIT, reading(0.005))
    assert (judged.harmful, judged.rollback, judged.refusal) == (False, None, None)
    assert judged.to_dict() == {
        "seq": 4,
        "action": "SPLIT",
        "realised_benefit": pytest.approx(0.005),
        "harmful": False,
    }


def test_a_harmful_edit_is_undone() -> None:
    judged = judge(view_of(healthy(), CONFIG), SPLIT, reading(0.5))
    assert (judged.harmful, judged.refusal) == (True, None)
    candidate = judged.rollback
    assert candidate is not None
    assert (candidate.action, candidate.reason, candidate.undoes) == (Action.ROLLBACK, "harm", 4)
    assert (candidate.expert_id, candidate.held) == ("L0_E3", 5)
    assert candidate.metrics == {
        "layer_entropy": 1.25,
        "layer_neff": 3.5,
        "topology_debt": 0.5,
        "unresolved_debt": 0.25,
        "token_entropy_ratio": 0.7,
        "num_experts": 4,
        "undone_action": "SPLIT",
        "probe_loss": 2.5,
        "undone_loss": 2.0,
        "restored_loss": 2.0,
        "realised_benefit": 0.5,
        "predicted_benefit": 0.0,
    }
    assert candidate.decided_by == ("probation_checkpoints", "harm_tolerance", "rollback_enabled")


@pytest.mark.parametrize(
    ("restored", "enabled", "refused"),
    [
        (2.4999, True, None),
        (2.5, True, "rollback_declined: going back would not lower the loss"),
        (3.0, True, "rollback_declined: going back would not lower the loss"),
        (None, True, "nothing saved to go back to"),
        (2.0, False, "rollback_enabled=False"),
    ],
)
def test_going_back_is_declined_where_it_is_no_better(
    restored: float | None, enabled: bool, refused: str | None
) -> None:
    view = view_of(healthy(), LifecycleConfig(rollback_enabled=enabled))
    judged = judge(view, SPLIT, reading(0.5, restored))
    assert judged.harmful
    if refused is None:
        assert judged.refusal is None
    else:
        assert judged.refusal is not None
        assert (judged.refusal.status, judged.refusal.why) == (Status.declined, refused)


# --- cap and floor hold for what a rollback leaves, too


@pytest.mark.parametrize(("n", "blocked"), [(15, False), (16, True)])
@pytest.mark.parametrize("action", [Action.PRUNE, Action.MERGE])
def test_nothing_comes_back_into_a_full_layer(action: Action, n: int, blocked: bool) -> None:
    gone = Probation(4, action, 0, ("L0_E50",), due=5)
    judged = judge(view_of(healthy(n), CONFIG), gone, reading(0.5))
    assert (judged.refusal is not None) is blocked
    if judged.refusal is not None:
        assert judged.refusal.status is Status.blocked
        assert judged.refusal.why == "16 experts, max_experts_per_layer=16"


@pytest.mark.parametrize(("n", "blocked"), [(5, False), (4, True)])
@pytest.mark.parametrize("action", [Action.SPLIT, Action.SPAWN, Action.REVIVE])
def test_nothing_that_the_floor_needs_is_taken_back(action: Action, n: int, blocked: bool) -> None:
    born = Probation(4, action, 0, ("L0_E3",), due=5)
    judged = judge(view_of(healthy(n, max_top_k=4), CONFIG), born, reading(0.5))
    assert (judged.refusal is not None) is blocked
    if judged.refusal is not None:
        assert judged.refusal.status is Status.blocked


def test_the_second_of_a_pair_can_go_at_the_floor_for_the_pair_is_one_group() -> None:
    pair = with_experts(healthy(4, max_top_k=3), E3={"twin_of": "L0_E1"})
    assert judge(view_of(pair, CONFIG), SPLIT, reading(0.5)).refusal is None


def test_a_birth_that_still_waits_can_be_called_off_at_the_floor() -> None:
    waits = healthy(3, max_top_k=3, pending_spawns=1)
    assert judge(view_of(waits, CONFIG), SPLIT, reading(0.5)).refusal is None


# --- what is learnt


def test_predicted_benefit_is_the_running_mean_of_that_action() -> None:
    state = PolicyState()
    assert state.predicted_benefit(Action.SPLIT) == 0.0
    for benefit, mean in [(0.4, 0.4), (-0.2, 0.1), (-0.5, -0.1)]:
        state.learn(Action.SPLIT, benefit)
        assert state.predicted_benefit(Action.SPLIT) == pytest.approx(mean)
    assert state.benefits["SPLIT"][0] == 3
    assert state.predicted_benefit(Action.SPAWN) == 0.0


def test_a_later_candidate_carries_the_benefit_of_those_before() -> None:
    policy = Policy(eager())
    policy.feed(hogged())
    policy.judge(0, benefit=-0.25)
    policy.feed(hogged(1), healthy(layer_id=1))
    policy.judge(1, benefit=-0.75)
    # The mean is of the run, not of the layer.
    (verdict,) = policy.feed(healthy(), hogged(layer_id=1)).verdicts
    assert verdict.candidate.metrics["predicted_benefit"] == pytest.approx(-0.5)


def learnt(*benefits: float, most: int = 8) -> list[int]:
    config = LifecycleConfig(max_patience_multiplier=most)
    state, layer, found = PolicyState(), LayerPolicy(), []
    for benefit in benefits:
        judged = judge(view_of(healthy(), config, layer, state), SPLIT, reading(benefit))
        learn(state, layer, judged, config)
        found.append(layer.patience(Action.SPLIT, 1))
    assert layer.patience(Action.PRUNE, 1) == 1
    return found


def test_harm_doubles_the_patience_up_to_eightfold() -> None:
    assert learnt(0.5, 0.5, 0.5, 0.5, 0.5) == [2, 4, 8, 8, 8]
    assert learnt(0.5, 0.5, 0.5, most=3) == [2, 3, 3]
    assert learnt(0.5, most=1) == [1]


def test_only_an_edit_that_helps_resets_it() -> None:
    assert learnt(0.5, 0.005, 0.0, 0.5, -0.001, 0.5) == [2, 2, 2, 4, 1, 2]


def test_patience_grows_in_that_layer_for_that_action_only() -> None:
    policy = Policy(eager())
    policy.feed(hogged(), healthy(layer_id=1))
    policy.judge(0, benefit=0.5)
    assert policy.state.layers[0].multipliers == {"SPLIT": 2}
    assert policy.state.layers[1].multipliers == {}
    assert told(policy.feed(hogged(), healthy(layer_id=1))) == []
    assert done(policy.feed(hogged(), healthy(layer_id=1))) == [("SPLIT", "L0_E0")]


def test_harm_counts_where_going_back_is_declined_as_well() -> None:
    policy = Policy(eager())
    policy.feed(hogged())
    assert told(policy.judge(0, benefit=0.5, restored=9.0)) == [("ROLLBACK", "L0_E99", "declined")]
    assert policy.state.layers[0].multipliers == {"SPLIT": 2}
    assert policy.state.probations == []


# --- in a cycle


EDITS = {
    "SPLIT": (hogged(), ("L0_E99", "L0_E0")),
    "SPAWN": (starving(), ("L0_E99",)),
    "PRUNE": (dead(3), ("L0_E3",)),
    "MERGE": (alike((0, 1)), ("L0_E0", "L0_E1")),
}


@pytest.mark.parametrize("kind", EDITS)
def test_every_edit_is_on_probation_for_its_checkpoints(kind: str) -> None:
    signals, experts = EDITS[kind]
    policy = Policy(eager(probation_checkpoints=4))
    policy.feed(signals)
    assert policy.state.probations == [Probation(0, Action(kind), 0, experts, due=5)]
    outcome = policy.judge(0, benefit=-0.1)
    assert outcome.checkpoint == 5
    assert policy.state.probations == []


@pytest.mark.parametrize("kind", ["PRUNE", "MERGE"])
def test_who_may_fade_out_is_judged_after_that_at_the_earliest(kind: str) -> None:
    policy = Policy(eager(probation_checkpoints=1, cooling_period=3))
    policy.feed(EDITS[kind][0])
    assert [p.due for p in policy.state.probations] == [1 + 3 + 1]


@pytest.mark.parametrize("kind", EDITS)
def test_a_harmful_edit_of_every_kind_is_rolled_back(kind: str) -> None:
    signals, experts = EDITS[kind]
    policy = Policy(eager())
    policy.feed(signals)
    outcome = policy.judge(0, benefit=0.5)
    (verdict,) = outcome.executed()
    assert (verdict.candidate.undoes, verdict.seq) == (0, 1)
    assert verdict.candidate.expert_id == experts[0]
    assert policy.state.layers[0].multipliers == {kind: 2}
    # A rollback itself is not on probation.
    assert policy.state.probations == []


def test_an_edit_that_nothing_could_measure_ends_its_probation_unjudged() -> None:
    policy = Policy(eager(probation_checkpoints=2))
    policy.feed(hogged())
    policy.feed(healthy())
    assert len(policy.state.probations) == 1
    outcome = policy.feed(healthy())
    assert (outcome.judgements, policy.state.probations) == ([], [])
    assert policy.state.benefits == {}
    assert done(policy.feed(hogged())) == [("SPLIT", "L0_E0")]


def test_a_window_without_tokens_judges_nothing_yet() -> None:
    policy = Policy(eager(probation_checkpoints=1))
    policy.feed(hogged())
    harm = ProbationReading(0, 3.0, 2.0, 2.0)
    outcome = policy.feed(healthy(dispatched=0, probations=[harm]))
    assert (outcome.judgements, outcome.verdicts) == ([], [])
    assert len(policy.state.probations) == 1
    assert done(policy.feed(healthy(probations=[harm]))) == [("ROLLBACK", "L0_E99")]


def test_rollbacks_are_free_of_budgets_and_cooldowns() -> None:
    none = dict.fromkeys([f"max_{kind}_per_cycle" for kind in ("prunes", "merges", "spawns")], 0)
    policy = Policy(
        eager(
            probation_checkpoints=1, max_splits_per_cycle=3, reversal_cooldown_checkpoints=99,
            spawn_cooldown_steps=9999, split_cooldown_per_expert=9999, **none,
        )
    )  # fmt: skip
    policy.feed(*(hogged(layer_id=i) for i in range(3)))
    outcome = policy.feed(
        *(healthy(layer_id=i, probations=[ProbationReading(i, 3.0, 2.0, 2.0)]) for i in range(3))
    )
    assert done(outcome) == [("ROLLBACK", f"L{i}_E99") for i in range(3)]


def test_a_layer_rolls_one_edit_back_in_a_cycle_and_measures_the_next_anew() -> None:
    policy = Policy(eager())
    policy.state.layers[0] = LayerPolicy()
    policy.state.probations = [
        Probation(seq, Action.SPAWN, 0, (f"L0_E{seq}",), due=1) for seq in (2, 3)
    ]
    policy.state.next_seq = 4
    bad = [ProbationReading(seq, 3.0, 2.0, 2.0) for seq in (2, 3)]
    outcome = policy.feed(healthy(probations=bad))
    assert done(outcome) == [("ROLLBACK", "L0_E2")]
    assert [p.seq for p in policy.state.probations] == [3]
    outcome = policy.feed(healthy(probations=bad[1:]))
    assert done(outcome) == [("ROLLBACK", "L0_E3")]


def test_an_edit_that_was_kept_leaves_the_action_of_its_layer_free() -> None:
    policy = Policy(eager(probation_checkpoints=1))
    policy.feed(hogged())
    helped = ProbationReading(0, 1.9, 2.0)
    outcome = policy.feed(dead(3, probations=[helped]))
    assert done(outcome) == [("PRUNE", "L0_E3")]


def test_a_rollback_uses_up_the_action_of_its_layer() -> None:
    policy = Policy(eager(probation_checkpoints=1))
    policy.feed(hogged())
    outcome = policy.feed(dead(3, probations=[ProbationReading(0, 3.0, 2.0, 2.0)]))
    assert told(outcome) == [("ROLLBACK", "L0_E99", "executed"), ("PRUNE", "L0_E3", "deferred")]
    assert why(outcome, Action.PRUNE) == ["one action per layer and cycle"]


def test_a_reading_is_found_by_its_edit() -> None:
    signals = healthy(probations=[ProbationReading(1, 1.0, 2.0), ProbationReading(4, 3.0, 4.0)])
    assert reading_of(signals, 4) == ProbationReading(4, 3.0, 4.0)
    assert reading_of(signals, 2) is None
