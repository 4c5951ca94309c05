"""Text from names, errors and metrics, made safe to show: one line, no control characters."""

from __future__ import annotations

import re

from chronorun.core.text import harmless

_BREAK = re.compile(r"\s*[\t-\r\x1c-\x1e\x85\u2028\u2029]\s*")


def one_line(text: str) -> str:
    """Return ``text`` on one line, its control and format characters written out (``\\x1b``)."""
    return harmless(_BREAK.sub(" ", text).strip())
