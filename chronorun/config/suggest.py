"""Name the nearest of what exists when something does not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(wrong: str, names: Iterable[str]) -> str:
    """Return ``; did you mean X?`` or, when nothing is near, the names themselves."""
    known = sorted(names)
    leaf = wrong.rpartition(".")[2]
    # A field's name is often right but for its group: max_steps -> training.max_steps.
    close = [name for name in known if "." in name and name.rpartition(".")[2] == leaf][:1]
    close = close or difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    if len(known) <= 12:
        return f"choose one of {', '.join(known)}"
    return "see chronorun train --help"
