"""The most memory this process held while something ran; Linux only, elsewhere unknown."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # man 5 proc: resets the peak resident set size to the current one


class PeakMemory:
    """Measures the peak resident set size (``VmHWM``) of the process inside a ``with`` block.

    ``peak_bytes`` is None before the block has ended, and where the system does not tell. A peak of
    before the block does not count; memory held since then does.
    """

    def __init__(self) -> None:
        self.peak_bytes: float | None = None
        self._reset = False

    def __enter__(self) -> PeakMemory:
        try:
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
            self._reset = True
        except OSError:
            self._reset = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without the reset an earlier, larger job's peak would be told as this one's.
        self.peak_bytes = _high_water_mark() if self._reset else None


def _high_water_mark() -> float | None:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return float(found[1]) * 1024 if found else None
