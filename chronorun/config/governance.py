"""The ``governance`` group."""

from __future__ import annotations

from dataclasses import dataclass

from chronorun.config.fields import check_ranges, option


@dataclass
class GovernanceConfig:
    """Fields of the group."""

    enabled: bool = option(True, "act at all")

    def __post_init__(self) -> None:
        check_ranges(self, "governance")
