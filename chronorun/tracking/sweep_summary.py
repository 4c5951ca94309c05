"""The W&B run that sums up a whole sweep, next to the runs of its jobs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chronorun.config.observing import WandbConfig
from chronorun.core.tracker import RunInfo
from chronorun.tracking.wandb_tracker import WandbTracker, chosen_mode

Table = tuple[Sequence[str], Sequence[Sequence[object]]]


def log_sweep(
    config: WandbConfig, folder: Path, tables: Mapping[str, Table], notice: Callable[[str], None]
) -> None:
    """Log tables (columns, rows) to a run of the sweep's group with the job type ``summary``.

    As everywhere, a failure of W&B is reported once and stops nothing; ``disabled`` logs nothing.
    """
    if chosen_mode(config) == "disabled":
        return
    sweep = folder.name
    group = config.group or os.environ.get("WANDB_RUN_GROUP") or sweep
    own = dataclasses.replace(config, group=group, job_type="summary")
    tracker = WandbTracker(own, notice)
    tracker.start(RunInfo(f"{sweep}-summary", folder, 0, 0, 0, {}, {}, None))
    for name, (columns, rows) in tables.items():
        tracker.table(name, columns, rows)
    tracker.finish({"status": "completed"})
