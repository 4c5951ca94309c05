"""Declare and check configuration fields.

A field carries its meaning, unit and range as dataclass metadata. ``--help``, the README's tables
and the validation at construction are all derived from that one declaration.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from chronorun.errors import UserError

LARGEST_INTEGER = 2**63 - 1
"""Largest integer of NumPy and torch: the limit of every integer field that declares none."""
LARGEST_SEED = 2**64 - 1
"""Largest seed of torch."""


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    limit: float | None = None,
    used_by: tuple[str, ...] = (),
    shapes_edits: bool = False,
    fixed_in_replay: bool = False,
    free_on_resume: bool = False,
) -> Any:
    """Declare a field with its meaning, unit and range (inclusive unless above or below).

    ``limit`` is the technical maximum, far beyond any use: checked, but not shown in help.
    ``used_by`` names the lifecycle's actions that read the field, where its own name does not begin
    with one. ``shapes_edits``: it changes what an edit does or how it is measured, not whether it
    is made. ``fixed_in_replay``: it says what a run did, not how it decided. ``free_on_resume``: it
    may change when a run is continued.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "at_least": at_least,
        "at_most": at_most,
        "above": above,
        "below": below,
        "limit": limit,
        "used_by": used_by,
        "shapes_edits": shapes_edits,
        "fixed_in_replay": fixed_in_replay,
        "free_on_resume": free_on_resume,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def marked(cls: type, mark: str) -> tuple[str, ...]:
    """Return the names of a dataclass's fields that were declared with a mark."""
    return tuple(field.name for field in dataclasses.fields(cls) if field.metadata.get(mark))


def describe_range(metadata: Any) -> str:
    """Return a field's range as text, such as ``> 0 and <= 1``; empty if it has none."""
    signs = (("at_least", ">="), ("above", ">"), ("at_most", "<="), ("below", "<"))
    return " and ".join(
        f"{sign} {_written(metadata[key])}" for key, sign in signs if metadata.get(key) is not None
    )


def _written(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def check_ranges(config: Any, group: str) -> None:
    """Raise UserError for the first numeric field of the dataclass outside its declared range.

    ``group`` is the key of the dataclass in overrides; empty for the root.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not field.metadata or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        bounds: Mapping[str, Any] = field.metadata
        limit = bounds["limit"]
        if limit is None and isinstance(value, int):
            limit = LARGEST_INTEGER
        if limit is not None and value > limit and bounds["at_most"] is bounds["below"] is None:
            bounds = {**bounds, "at_most": limit}
        outside = (
            (isinstance(value, float) and not math.isfinite(value))
            or (bounds["at_least"] is not None and value < bounds["at_least"])
            or (bounds["at_most"] is not None and value > bounds["at_most"])
            or (bounds["above"] is not None and value <= bounds["above"])
            or (bounds["below"] is not None and value >= bounds["below"])
        )
        if outside:
            rule = describe_range(bounds) or "a finite number"
            key = f"{group}.{field.name}" if group else field.name
            raise UserError(
                f"configuration: {key}={value}, expected {rule}; "
                f"correct the override or the config file"
            )
