"""Text from files and models, made harmless for a terminal."""

from __future__ import annotations

import sys
import unicodedata


def harmless(text: str, keep: str = "") -> str:
    """Escape control and format characters (``\\x1b``, ``\\u202e``), all but those in ``keep``."""
    return "".join(
        char
        if char in keep or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    sys.stderr.write(f"chronorun: warning: {harmless(' '.join(message.split()))}\n")
