"""A series as one line of characters."""

from __future__ import annotations

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-~=+*#"


def spark(values: list[float | None], ascii_only: bool = False) -> str:
    """Return one character per value, from low to high; a blank where there is none yet."""
    ramp = PLAIN if ascii_only else BLOCKS
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    if high == low:
        # A level line says: no change.
        return "".join(" " if value is None else ramp[3] for value in values)
    scale = (len(ramp) - 1) / (high - low)
    return "".join(" " if v is None else ramp[round((v - low) * scale)] for v in values)
