"""Values from JSON objects that anyone may have written; values of another type are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from chronorun.core.words import finite

_MOST_KEYS = 40
_LARGEST = 1 << 53


def number(record: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number of a size that can be drawn; None for anything else."""
    return finite(record.get(key))


def integer(record: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number that a float holds exactly; None for anything else."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) < _LARGEST and value == int(value) else None


def string(record: Mapping[str, Any], key: str) -> str | None:
    """Return a text that is not empty, cut short; None for anything else."""
    value = record.get(key)
    return value[:200] if isinstance(value, str) and value else None


def mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object; an empty one for anything else."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def scalars(raw: msgspec.Raw) -> dict[str, Any]:
    """Return the plain values of an object in JSON; none for anything else."""
    try:
        found = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return {}
    return plain(found) if isinstance(found, Mapping) else {}


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of an object, texts cut."""
    kept: dict[str, Any] = {}
    for key, value in found.items():
        if len(kept) == _MOST_KEYS:
            break
        if (
            (type(value) is float and -1e100 < value < 1e100)
            or value is None
            or isinstance(value, bool)
        ):
            kept[key[:80]] = value
        elif isinstance(value, str):
            kept[key[:80]] = value[:200]
        elif (number := finite(value)) is not None:
            kept[key[:80]] = value if isinstance(value, int) else number
    return kept


def figure(value: float | None, form: str = ".4g", missing: str = "–") -> str:
    """Return a number for people, with a true minus sign; what rounds to zero has no minus."""
    if value is None:
        return missing
    text = format(value, form)
    if text.startswith("-") and not text.strip("-0.,"):
        text = format(0.0, form)
    return text.replace("-", "−")
