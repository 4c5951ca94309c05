"""W&B's own reader of offline runs: ``wandb leet inspect``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def inspect(run: Path, *flags: str) -> str:
    """Return what it shows of a folder ``offline-run-*``; skips the test where there is none."""
    beside = shutil.which("wandb", path=str(Path(sys.executable).parent))
    command = beside or shutil.which("wandb")
    if command is None:
        pytest.skip("no wandb command")
    shown = subprocess.run(
        [command, "leet", "inspect", *flags, str(run)], capture_output=True, text=True, timeout=60
    )
    if shown.returncode:
        pytest.skip("this wandb has no leet inspect")
    return shown.stdout


def summary(run: Path) -> dict[str, Any]:
    """Return the summary record of a run."""
    found: dict[str, Any] = json.loads(inspect(run, "--summary", "--json"))
    return found
