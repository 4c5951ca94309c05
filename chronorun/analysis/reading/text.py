"""Words and figures for people, from records that anyone may have written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from chronorun.core.text import one_line

_MOST_KEYS = 40


def shown(text: str, longest: int = 200) -> str:
    """Return a text on one line, cut, its control and format characters written out."""
    if len(text) <= longest and text.isprintable():
        return text.strip()
    return one_line(text[:longest]) + ("..." if len(text) > longest else "")


def finite(value: object) -> float | None:
    """Return a value that is a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e100 and math.isfinite(value) else None


def figure(value: object, form: str = ".4g") -> str:
    """Return a value in short: numbers in ``form``, whole ones as they are, texts cut."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) < 10**12:
        return str(value)
    number = finite(value)
    if number is not None:
        return format(number, form)
    return shown(value, 60) if isinstance(value, str) else "?"


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign: 0 for none, a power of ten where the digits say none."""
    if value == 0.0:
        return "0"
    told = f"{value:+.{digits}f}"
    return told if any(digit in told for digit in "123456789") else f"{value:+.0e}"


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


def expert_order(expert_id: str) -> tuple[int, str]:
    """Sort key of ids: L0_E9 comes before L0_E10."""
    return len(expert_id), expert_id
