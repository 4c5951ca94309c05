"""The root of a bench's configuration: a run's, and what is compared (group ``bench``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from chronorun.config.fields import LARGEST_SEED, check_ranges, option
from chronorun.config.run import RunConfig

FOLLOWERS = ("static_mean", "yoked", "sham")
"""Arms that read what the lifecycle's run of their seed did: they run after it."""


class OnError(Enum):
    """What a failing job does to the sweep."""

    go_on = "continue"
    stop = "stop"


@dataclass
class BenchConfig:
    """What is compared, and how it is judged."""

    arms: list[str] = option(["static", "lifecycle"], "arms, where arm= does not say")
    scenarios: list[str] = option(["none"], "scenarios, where scenario= does not say")
    seeds: int = option(10, "number of seeds, where seed= does not say", at_least=1, limit=100_000)
    first_seed: int = option(0, "the first of them", at_least=0, limit=LARGEST_SEED)
    margin: float = option(
        0.005,
        "no harm: differences below this part of the static arm's validation loss",
        above=0.0,
        below=1.0,
    )
    alpha: float = option(0.05, "level of the tests", above=0.0, below=1.0)
    confidence: float = option(0.95, "level of the intervals", above=0.0, below=1.0)
    on_error: OnError = option(OnError.go_on, "what a failing job does to the other jobs")
    keep_checkpoints: bool = option(False, "keep what finished jobs could be resumed from")

    def __post_init__(self) -> None:
        check_ranges(self, "bench")


@dataclass
class BenchRunConfig(RunConfig):
    """Everything that defines one job of a bench."""

    bench: BenchConfig = field(default_factory=BenchConfig)
