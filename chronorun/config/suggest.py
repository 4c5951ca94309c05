"""Suggest the closest known name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SEE_HELP = "see chronorun train --help"
SEE_HYDRA_HELP = "see chronorun train --hydra-help"


def nearest(wrong: str, names: Iterable[str]) -> str | None:
    """Return the name that was most likely meant; None if none is close."""
    known = sorted(names)
    # Often the field is right and only its group is missing: max_steps -> training.max_steps.
    leaf = wrong.rpartition(".")[2]
    same_leaf = [name for name in known if "." in name and name.rpartition(".")[2] == leaf]
    if same_leaf:
        return difflib.get_close_matches(wrong, same_leaf, n=1, cutoff=0.0)[0]
    close = difflib.get_close_matches(wrong.lower(), known, n=1, cutoff=0.6)
    if not close and "." not in wrong:
        leaves = {name.rpartition(".")[2]: name for name in known}
        close = [leaves[near] for near in difflib.get_close_matches(wrong, leaves, n=1)]
    return close[0] if close else None


def next_step(wrong: str, names: Iterable[str], otherwise: str) -> str:
    """Return ``did you mean X?``, or ``otherwise`` if no name is close."""
    close = nearest(wrong, names)
    return f"did you mean {close}?" if close else otherwise
