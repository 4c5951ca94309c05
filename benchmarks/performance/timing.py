"""Interleaved measurement: contenders take turns in one process, so that drift favours none."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

NOISE_LIMIT = 1.5
"""Slowest round over fastest of a baseline from which on its figures are refused."""

Step = Callable[[], object]


def cpu_seconds(step: Step) -> float:
    """Return the process CPU seconds that a call takes."""
    start = time.process_time()
    step()
    return time.process_time() - start


def interleave(
    steps: Mapping[str, Step], rounds: int, turns: int = 1, warm_up: int = 2
) -> dict[str, list[float]]:
    """Return CPU seconds per round of each contender; the order changes from turn to turn.

    A round is the mean of so many turns: a step of milliseconds alone tells of the processor's
    speed at that instant.
    """
    for step in steps.values():
        for _ in range(warm_up):
            step()
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds * turns):
        for name in turned(names, turn):
            seconds[name].append(cpu_seconds(steps[name]))
    return {name: means(each, turns) for name, each in seconds.items()}


def means(seconds: Sequence[float], turns: int) -> list[float]:
    """Return the means of each so many neighbours."""
    return [statistics.fmean(seconds[i : i + turns]) for i in range(0, len(seconds), turns)]


def turned(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in another order each turn: every one is first now and then."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def paired_ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio within each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(seconds: Sequence[float]) -> float:
    """Return the slowest round over the fastest."""
    return max(seconds) / min(seconds)


def growth_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of log seconds over log size (1: linear), by least squares."""
    xs, ys = [math.log(x) for x in sizes], [math.log(y) for y in seconds]
    return statistics.linear_regression(xs, ys).slope
