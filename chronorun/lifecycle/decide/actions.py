"""What the lifecycle can do, what it proposes, and what became of a proposal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Metrics = Mapping[str, float | int | str | None]


class Action(StrEnum):
    """The structural edits, in the order in which a cycle considers them."""

    ROLLBACK = "ROLLBACK"
    PRUNE = "PRUNE"
    MERGE = "MERGE"
    SPLIT = "SPLIT"
    REVIVE = "REVIVE"
    SPAWN = "SPAWN"


GROWS = frozenset((Action.SPLIT, Action.REVIVE, Action.SPAWN))
SHRINKS = frozenset((Action.PRUNE, Action.MERGE))


class Status(StrEnum):
    """What became of a candidate in a cycle."""

    executed = "executed"
    deferred = "deferred"  # may still come: a budget, a cooldown, a grace, the warm-up
    blocked = "blocked"  # a limit of the population
    stale = "stale"  # was put off, and its condition no longer holds
    declined = "declined"  # a rollback that would make things worse
    sham = "sham"  # a control run's: what goes with the edit, without the edit


@dataclass(frozen=True)
class Candidate:
    """One edit whose condition has lasted for its patience.

    ``expert_id`` names the expert acted upon, for births the one that will be born; ``parent_id``
    what it comes from; ``partner_id`` the expert that a merge absorbs; ``cluster`` what a spawn is
    made of. ``held`` counts the checkpoints for which the condition has lasted. ``decided_by``
    names configuration fields.
    """

    action: Action
    layer_id: int
    expert_id: str
    reason: str
    held: int
    parent_id: str | None = None
    partner_id: str | None = None
    cluster: tuple[str, ...] = ()
    undoes: int | None = None
    metrics: Metrics = field(default_factory=dict)
    decided_by: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Whose signals decided: a split's parent, a merge's pair, a spawn's layer."""
        if self.action is Action.SPLIT and self.parent_id is not None:
            return self.parent_id
        if self.action is Action.MERGE and self.partner_id is not None:
            return f"{self.expert_id}|{self.partner_id}"
        return f"L{self.layer_id}" if self.action is Action.SPAWN else self.expert_id

    @property
    def key(self) -> str:
        """Name the same proposal from one cycle to the next."""
        return f"{self.action} {self.subject}"

    @property
    def touches(self) -> frozenset[str]:
        """Experts that exist already and that the edit reads or changes."""
        named = (self.expert_id, self.parent_id, self.partner_id, *self.cluster)
        return frozenset(name for name in named if name is not None)


@dataclass(frozen=True)
class Refusal:
    """Why a candidate is not carried out now."""

    status: Status
    why: str


@dataclass(frozen=True)
class Verdict:
    """A candidate and what became of it; ``seq`` numbers what is executed."""

    candidate: Candidate
    status: Status
    why: str = ""
    seq: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the verdict as a part of a line of ``lifecycle_evaluations.jsonl``."""
        c = self.candidate
        return {
            "action": str(c.action),
            "expert_id": c.expert_id,
            "parent_id": c.parent_id,
            "partner_id": c.partner_id,
            "reason": c.reason,
            "held": c.held,
            "undoes": c.undoes,
            "status": str(self.status),
            "why": self.why,
            "seq": self.seq,
        }
