"""What ``torchrun`` says of this process, without importing torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from chronorun.errors import UserError


@dataclass(frozen=True)
class Place:
    """Which process of a run this is; ``local`` counts those of one machine.

    ``launched``: a launcher started it, if only by itself.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    launched: bool = field(default=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return this process's place; alone unless a launcher said otherwise.

    Raises UserError for a rank or a number of processes that is none.
    """
    # A cluster's own WORLD_SIZE is no launch: there must be an address to meet at, too.
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        return Place()
    place = Place(
        _number(environment, "RANK", 0),
        _number(environment, "WORLD_SIZE", 1),
        _number(environment, "LOCAL_RANK", 0),
        _number(environment, "LOCAL_WORLD_SIZE", 1),
        launched=True,
    )
    if not 0 <= place.rank < place.world:
        raise UserError(
            f"processes: RANK={place.rank}, expected >= 0 and < WORLD_SIZE={place.world}; "
            f"start with torchrun --nproc-per-node N -m chronorun train"
        )
    return place


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal():
        raise UserError(
            f"processes: {name}={text}, expected a number; "
            f"start with torchrun --nproc-per-node N -m chronorun train"
        )
    return int(text)
