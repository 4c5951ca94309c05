"""An expert's life: the moves of LIFECYCLE's table are allowed, every other one is refused."""

from __future__ import annotations

import re
from itertools import product

import pytest

from chronorun.errors import ChronorunError
from chronorun.lifecycle.experts.states import LIVE, ExpertState, LifecycleError, check_transition

# LIFECYCLE, "Registry and states", row by row. The two rows that are births (from nothing, and from
# an archived expert's weights) make a new id and are tested with the registry.
TABLE = (
    ("pending_spawn", "cooling", "integrated"),
    ("cooling", "active", "grace over"),
    ("active", "dormant", "no share"),
    ("dormant", "active", "share again"),
    ("dormant", "pending_prune", "confirmed dead"),
    ("active", "pending_prune", "absorbed by a merge"),
    ("cooling", "pending_prune", "absorbed by a merge"),
    ("pending_spawn", "pending_prune", "rolled back"),
    ("cooling", "pending_prune", "rolled back"),
    ("active", "pending_prune", "rolled back"),
    ("dormant", "pending_prune", "rolled back"),
    ("pending_prune", "archived", "removed"),
    ("active", "cooling", "survivor of a merge"),
    ("archived", "active", "revived or brought back"),
)
NAMES = ("pending_spawn", "cooling", "active", "dormant", "pending_prune", "archived")
ALLOWED = {(before, after) for before, after, _when in TABLE}
REFUSED = [move for move in product(NAMES, NAMES) if move not in ALLOWED]


def test_the_states_are_those_of_the_design() -> None:
    assert tuple(str(state) for state in ExpertState) == NAMES


def test_an_expert_is_live_from_its_integration_to_its_removal() -> None:
    assert {str(state) for state in LIVE} == {"cooling", "active", "dormant", "pending_prune"}


@pytest.mark.parametrize(("before", "after", "when"), TABLE)
def test_a_move_of_the_table_is_allowed(before: str, after: str, when: str) -> None:
    check_transition("L0_E1", ExpertState(before), ExpertState(after))


@pytest.mark.parametrize(("before", "after"), REFUSED)
def test_any_other_move_is_refused_and_the_allowed_ones_are_named(before: str, after: str) -> None:
    expected = " or ".join(sorted(a for b, a in ALLOWED if b == before))
    message = (
        f"expert L0_E1: state={after}, expected {expected} after {before}; "
        f"this is a bug in the caller"
    )
    with pytest.raises(LifecycleError, match=f"^{re.escape(message)}$"):
        check_transition("L0_E1", ExpertState(before), ExpertState(after))


def test_a_refusal_is_written_out_once_by_hand() -> None:
    with pytest.raises(LifecycleError) as refusal:
        check_transition("L2_E5", ExpertState.active, ExpertState.archived)
    assert str(refusal.value) == (
        "expert L2_E5: state=archived, expected cooling or dormant or pending_prune after active; "
        "this is a bug in the caller"
    )
    assert isinstance(refusal.value, ChronorunError)
