"""Text from files, names and models, made harmless for a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

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


_BREAK = re.compile(r"\s*[\t-\r\x1c-\x1e\x85\u2028\u2029]\s*")


def one_line(text: str) -> str:
    """Return ``text`` on one line, its control and format characters written out (``\\x1b``)."""
    return harmless(_BREAK.sub(" ", text).strip())


def printable(value: Any) -> Any:
    """Return plain data with what is no UTF-8 in its text written out (``\\udce9``).

    A file's name may hold any bytes; Python keeps them as surrogates, which no encoder takes.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable(item) for item in value]
    return value
