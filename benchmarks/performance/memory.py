"""Peak memory of a training step against one-hot dispatch (Linux: from /proc/self/status).

    python -m performance.memory KIND PRESET      (used by the group itself, in a process apart)

It is the peak growth of a process over what it held after imports, in three training steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from performance.models import BATCH, build, preset_config, step_of
from performance.rows import NOT_MEASURED, Row

HERE = Path(__file__).resolve().parents[1]
STATUS = Path("/proc/self/status")


def measure(quick: bool) -> list[Row]:
    """Return the memory rows; medium only in a full run."""
    return [
        _row("small", 0.5, 0.4),
        *([] if quick else [_row("medium", None, None)]),
    ]


def _row(preset: str, must: float | None, aim: float | None) -> Row:
    name = f"memory / one-hot, {preset}"
    if not STATUS.exists():
        return Row("memory", name, "x", None, status=f"{NOT_MEASURED}: no {STATUS}")
    ours, one_hot = peak_bytes("ours", preset), peak_bytes("one-hot", preset)
    note = f"{ours / 2**20:.0f} of {one_hot / 2**20:.0f} MiB"
    return Row("memory", name, "x", ours / one_hot, must=must, aim=aim, note=note)


def peak_bytes(kind: str, preset: str) -> int:
    """Return the peak growth of a process of its own."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
    }
    command = [sys.executable, "-m", "performance.memory", kind, preset]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def _status(field: str) -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _print_peak(kind: str, preset: str) -> None:
    torch.set_num_threads(1)
    # What autograd sets up at its first use belongs to nobody.
    warm_up = torch.ones(8, 8, requires_grad=True).matmul(torch.ones(8, 8)).sum()
    torch.autograd.backward(warm_up)
    before = _status("VmRSS")
    config = preset_config(preset)
    step = step_of(build(kind, config), config, BATCH[preset])
    for _ in range(3):
        step()
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    _print_peak(*sys.argv[1:])
