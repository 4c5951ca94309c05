"""Who decides the structural edits (group ``edits``): the lifecycle's policy, or a control."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option


class EditsKind(Enum):
    """Who decides."""

    policy = "policy"
    doubling = "doubling"
    yoked = "yoked"
    sham = "sham"


@dataclass
class EditsConfig:
    """Who decides the structural edits while the lifecycle is enabled."""

    kind: EditsKind = option(
        EditsKind.policy,
        "the lifecycle's policy, or a control: doubling (each expert is split once), yoked "
        "(the edits of source on experts drawn at random), sham (their optimizer treatment "
        "alone)",
    )
    source: str | None = option(None, "run folder whose edits are followed, for yoked and sham")
    doubling_at: float = option(
        0.5, "when doubling splits, as a fraction of training.max_steps", above=0.0, below=1.0
    )

    def __post_init__(self) -> None:
        check_ranges(self, "edits")
