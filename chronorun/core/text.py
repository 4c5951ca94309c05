"""Text from files, names and models, made harmless for a terminal."""

from __future__ import annotations

import unicodedata

_HARMFUL = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories: control, format, surrogate, private, unassigned, line and paragraph ends."""


def harmless(text: str, keep: str = "") -> str:
    """Escape control and format characters (``\\x1b``, ``\\u2028``), all but those in ``keep``."""
    return "".join(
        char
        if char in keep or unicodedata.category(char) not in _HARMFUL
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )
