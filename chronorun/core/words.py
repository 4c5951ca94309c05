"""Words and figures for people, from values that anyone may have written."""

from __future__ import annotations

import math

from chronorun.core.text import one_line


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
