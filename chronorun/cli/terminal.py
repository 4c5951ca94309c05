"""Lines for a person at a terminal."""

from __future__ import annotations

import sys

from chronorun.core.text import harmless


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    sys.stderr.write(f"chronorun: warning: {harmless(' '.join(message.split()))}\n")
