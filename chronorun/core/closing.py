"""Run every clean-up step even if some fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def first_problem(tasks: Iterable[Callable[[], object]]) -> Exception | None:
    """Run all tasks in order, even if some fail; return the first exception."""
    problem = None
    for task in tasks:
        try:
            task()
        except Exception as error:
            problem = problem or error
    return problem
