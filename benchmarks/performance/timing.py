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


def interleave(steps: Mapping[str, Step], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Return CPU seconds per round of each contender; the order turns from round to round."""
    for step in steps.values():
        for _ in range(warm_up):
            step()
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in turned(names, turn):
            seconds[name].append(cpu_seconds(steps[name]))
    return seconds


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
