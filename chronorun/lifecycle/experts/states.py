"""The life of one expert: its states and the moves between them that are allowed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from chronorun.errors import ChronorunError


class LifecycleError(ChronorunError):
    """An expert was asked for something that its state does not allow."""


class ExpertState(StrEnum):
    """Where an expert is in its life."""

    pending_spawn = "pending_spawn"
    cooling = "cooling"
    active = "active"
    dormant = "dormant"
    pending_prune = "pending_prune"
    archived = "archived"


LIVE = frozenset(
    (ExpertState.cooling, ExpertState.active, ExpertState.dormant, ExpertState.pending_prune)
)
"""States in which an expert has a slot in its layer's tensors.

The exception: one that was rolled back before its integration is ``pending_prune`` without a slot.
"""

TRANSITIONS: dict[ExpertState, frozenset[ExpertState]] = {
    # integrated; rolled back before that
    ExpertState.pending_spawn: frozenset((ExpertState.cooling, ExpertState.pending_prune)),
    # grace over; absorbed by a merge or rolled back
    ExpertState.cooling: frozenset((ExpertState.active, ExpertState.pending_prune)),
    # no share; survivor of a merge; absorbed by a merge or rolled back
    ExpertState.active: frozenset(
        (ExpertState.dormant, ExpertState.cooling, ExpertState.pending_prune)
    ),
    # share again; confirmed dead or rolled back
    ExpertState.dormant: frozenset((ExpertState.active, ExpertState.pending_prune)),
    # removed
    ExpertState.pending_prune: frozenset((ExpertState.archived,)),
    # revived, or brought back by a rollback. A spawn from its weights is a birth: a new id.
    ExpertState.archived: frozenset((ExpertState.active,)),
}


def check_transition(expert_id: str, before: ExpertState, after: ExpertState) -> None:
    """Raise LifecycleError unless an expert may go from one state to the other."""
    if after not in TRANSITIONS[before]:
        raise LifecycleError(
            f"expert {expert_id}: state={after}, expected {_words(TRANSITIONS[before])} after "
            f"{before}; this is a bug in the caller"
        )


def _words(states: Iterable[ExpertState]) -> str:
    return " or ".join(sorted(states))
