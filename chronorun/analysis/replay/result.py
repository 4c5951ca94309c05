"""What a replay found: how much was derived again, and the first difference."""

from __future__ import annotations

from dataclasses import dataclass, field

from chronorun.analysis.replay.lines import Difference


@dataclass
class Tally:
    """How many decisions of one kind were logged, and how many of them were derived again."""

    logged: int = 0
    reproduced: int = 0
    why_not: str | None = None


@dataclass
class Replay:
    """What a replay found. ``verdicts`` counts candidates with what became of them.

    ``waiting`` names decisions whose time had not come when the run ended; ``is_open`` says that
    the run is still being written.
    """

    run_id: str
    lifecycle: Tally = field(default_factory=Tally)
    control: Tally = field(default_factory=Tally)
    checkpoints: int = 0
    verdicts: int = 0
    waiting: list[str] = field(default_factory=list)
    is_open: bool = False
    difference: Difference | None = None
    changed_logs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_reproduced(self) -> bool:
        """Whether everything was derived and every log is as it was written."""
        kinds = (self.lifecycle, self.control)
        whole = all(k.reproduced == k.logged and k.why_not is None for k in kinds)
        return whole and self.difference is None and not self.changed_logs
