"""The root of a bench's configuration: a run's, and the comparison (group ``bench``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from chronorun.config.fields import LARGEST_SEED, check_ranges, option
from chronorun.config.run import RunConfig

FOLLOWERS = ("static_mean", "yoked", "sham")
"""Arms that use the edits of the lifecycle arm's run of their seed: they run after it."""


class OnError(Enum):
    """What a failing job does to the sweep."""

    go_on = "continue"
    stop = "stop"


@dataclass
class BenchConfig:
    """What is compared, and how it is judged."""

    arms: list[str] = option(["static", "lifecycle"], "arms, if arm= is not given")
    scenarios: list[str] = option(["none"], "scenarios, if scenario= is not given")
    seeds: int = option(10, "number of seeds, if seed= is not given", at_least=1, limit=100_000)
    first_seed: int = option(0, "first of these seeds", at_least=0, limit=LARGEST_SEED)
    margin: float = option(
        0.005,
        "no harm: largest difference, as a fraction of the static arm's validation loss",
        above=0.0,
        below=1.0,
    )
    alpha: float = option(0.05, "significance level of the tests", above=0.0, below=1.0)
    confidence: float = option(0.95, "confidence level of the intervals", above=0.0, below=1.0)
    on_error: OnError = option(OnError.go_on, "what a failing job does to the jobs after it")
    keep_checkpoints: bool = option(
        False, "keep the checkpoints and archived experts of finished jobs"
    )

    def __post_init__(self) -> None:
        check_ranges(self, "bench")


@dataclass
class BenchRunConfig(RunConfig):
    """Everything that defines one job of a bench."""

    bench: BenchConfig = field(default_factory=BenchConfig)
