"""Names of the files in a run folder."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"
"""The run's configuration, references unresolved."""
MANIFEST = "run_manifest.json"
"""How the run was started: version, machine, corpus, configuration."""
SUMMARY = "summary.json"
"""Results of the run, written when it ends."""
REPORT = "report.html"
TRAIN_LOG = "train.log"
"""Log messages of libraries, and notices."""
HYDRA = ".hydra"
"""Folder of what Hydra composed."""
TOKENIZER = "tokenizer"
CHECKPOINTS = "checkpoints"
ARCHIVE = "archive"
PRIORS = "priors.json.gz"
"""The controller's experience, for later runs."""

LIFECYCLE_LOGS = (
    "lifecycle_decisions",
    "lifecycle_evaluations",
    "expert_transitions",
    "basins",
)
LOGS = (
    "metrics",
    "routing_events",
    "snapshots",
    "control_decisions",
    "scenario_events",
    *LIFECYCLE_LOGS,
    "timings",
)
"""The JSON-lines logs, without their ending."""
DECISIONS = LIFECYCLE_LOGS[0]


def log_file(name: str) -> str:
    """Return the file name of a log."""
    assert name in LOGS, name
    return f"{name}.jsonl"


def has_logs(folder: Path) -> bool:
    """Return whether a folder holds a log of a run."""
    return any((folder / log_file(name)).is_file() for name in LOGS)
