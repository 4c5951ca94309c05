"""What ``benchmarks/run.py`` measures: a module for each group of rows, and what they share.

A group's module has ``measure(quick)``, which returns its rows. ``timing`` and ``rows`` say how a
figure comes about and when it is refused; ``report`` prints and writes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from performance.rows import Row

GROUPS = {
    "step": "steps",
    "memory": "memory",
    "experts": "experts",
    "skew": "skew",
    "overhead": "overhead",
    "probes": "probes",
    "edits": "edits",
    "evaluation": "evaluation",
    "starting": "starting",
    "inspect": "inspecting",
    "bf16": "precision",
    "gpu": "gpu",
}
"""Group -> module of this package, in the order in which they are measured."""


def load_group(name: str) -> Callable[[bool], list[Row]]:
    """Return the function that measures a group."""
    measure: Callable[[bool], list[Row]] = import_module(f"performance.{GROUPS[name]}").measure
    return measure
