"""Text from names, errors and metrics, made safe to show: one line, no control characters."""

from __future__ import annotations

import re
import unicodedata

_BREAK = re.compile(r"\s*[\t-\r\x1c-\x1e\x85\u2028\u2029]\s*")


def one_line(text: str) -> str:
    """Return ``text`` on one line, its control and format characters written out (``\\x1b``)."""
    return "".join(
        char
        if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in _BREAK.sub(" ", text).strip()
    )
