"""What belongs to one run and travels together, and what the saved parts of a run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from chronorun.config.run import RunConfig
from chronorun.core.processes import ALONE, Processes
from chronorun.core.tracker import Tracker
from chronorun.data import TokenizedCorpus
from chronorun.training.logs import RunLogs


@dataclass(frozen=True)
class RunContext:
    """One run: its configuration, folder, device, data, logs, trackers and processes."""

    config: RunConfig
    run_dir: Path
    device: torch.device
    corpus: TokenizedCorpus
    logs: RunLogs
    tracker: Tracker
    processes: Processes = ALONE


class Part(Protocol):
    """A part of a run that a checkpoint saves under its name: the heartbeat, the scenario."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as nested plain data with tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it; the model is already that of the checkpoint."""

    def finish(self, run_dir: Path) -> None:
        """Write what the part leaves in the run folder when the run ends."""
