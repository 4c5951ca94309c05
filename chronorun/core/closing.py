"""Doing all there is to do at an end, whatever of it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def first_problem(tasks: Iterable[Callable[[], object]]) -> Exception | None:
    """Do all tasks in order, whichever of them fail; return the first exception."""
    problem = None
    for task in tasks:
        try:
            task()
        except Exception as error:
            problem = problem or error
    return problem
