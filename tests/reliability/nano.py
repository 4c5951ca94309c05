"""Small runs whose population changes, and what it means that two of them are equal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NANO = (
    "data=synthetic",
    "model=nano",
    "model.d_model=32",
    "model.context_length=32",
    "training.batch_size=4",
    "training.eval_batches=1",
    "training.final_eval_batches=1",
    "training.threads=1",
    "training.eval_interval=5",
    "tracking.log_interval=1",
    "lifecycle=aggressive",
    "lifecycle.lifecycle_warmup_steps=5",
    "lifecycle.revive_overlap_threshold=0.01",
    "edits=yoked",
)
LAST = 40
RUN = (*NANO, f"training.max_steps={LAST}", "training.checkpoint_interval=5", "run_id=x")

PLAN = (
    (5, "PRUNE"),
    (5, "SPLIT"),
    (10, "MERGE"),
    (10, "SPAWN"),
    (15, "PRUNE"),
    (25, "REVIVE"),
    (30, "ROLLBACK"),
    (35, "REVIVE"),
    (35, "ROLLBACK"),
)
"""Edits by step, each kind among them. A prune fades out first, and is done 15 steps later."""

_TIMESTAMP = re.compile(rb'"timestamp":("[^"]*"|[-+0-9.e]+)')
# Seconds, and the hashes of logs that hold timestamps.
_WALL_CLOCK = ("train_seconds", "wall_seconds", "logs")


def write_plan(folder: Path, plan: Iterable[tuple[int, str]] = PLAN) -> str:
    """Write edits to follow, as the log of another run, and return the override that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"step": step, "action": action, "seq": seq, "dry_run": False})
        for seq, (step, action) in enumerate(plan)
    )
    (folder / "lifecycle_decisions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return following(folder)


def following(folder: Path) -> str:
    """Return the override that lets a run make the edits of a log."""
    return f"edits.source={folder}"


def checkpoint(run: Path, step: int = LAST) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def logs(run: Path) -> dict[str, bytes]:
    """Return each log's bytes, without wall-clock figures."""
    return {
        path.name: _TIMESTAMP.sub(b'"timestamp":0', path.read_bytes())
        for path in sorted(run.glob("*.jsonl"))
        if path.name != "timings.jsonl"
    }


def loss_bits(run: Path) -> list[tuple[int, str]]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8"))
    return [(line["step"], float(line["train/loss"]).hex()) for line in lines]


def state(run: Path, step: int = LAST) -> dict[str, Any]:
    found = json.loads((checkpoint(run, step) / "state.json").read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in _WALL_CLOCK}


def story(run: Path) -> dict[str, Any]:
    """Return what the summary says of the population and what was done to it."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    names = ("status", "steps", "population", "lifecycle", "val_loss", "eval_tokens", "parameters")
    return {name: summary[name] for name in names}


def differences(one: Path, other: Path) -> list[str]:
    """Name what differs between two finished runs: losses, logs, tensors, state, population."""
    found = []
    if loss_bits(one) != loss_bits(other):
        found.append("losses")
    mine, theirs = logs(one), logs(other)
    found += [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
    for kind in ("model", "optimizer", "state"):
        name = f"{kind}.safetensors"
        if (checkpoint(one) / name).read_bytes() != (checkpoint(other) / name).read_bytes():
            found.append(name)
    if state(one) != state(other):
        found.append("state.json")
    if story(one) != story(other):
        found.append("summary.json")
    if _files(one / "archive") != _files(other / "archive"):
        found.append("archive")
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def copy_until(run: Path, target: Path, step: int) -> Path:
    """Copy a run as if it had been killed right after it saved ``step``; logs go on beyond."""
    shutil.copytree(run, target, symlinks=True)
    for path in (target / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    (target / "summary.json").unlink()
    return target
