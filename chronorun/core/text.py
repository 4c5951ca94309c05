"""Text from files, names and models, made harmless for a terminal."""

from __future__ import annotations

import unicodedata


def harmless(text: str, keep: str = "") -> str:
    """Escape control and format characters (``\\x1b``, ``\\u202e``), all but those in ``keep``."""
    return "".join(
        char
        if char in keep or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )
