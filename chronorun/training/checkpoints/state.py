"""Checks of the state in a checkpoint, made before anything is built from it.

Hashes show damage, not intent: the author of a hostile checkpoint writes its hashes, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from torch import Tensor

from chronorun.core.state import tensor_names
from chronorun.training.checkpoints.manifest import bad_file

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
MOST_THREADS = 4096


class SavedLog(msgspec.Struct):
    """Length and hash of a log."""

    offset: Count
    sha256: str


class Best(msgspec.Struct):
    """The lowest validation loss and its step."""

    val_loss: float
    step: Count


class RunState(msgspec.Struct):
    """The plain parts of ``state.json``; heartbeat and scenario are checked as they load."""

    step: Count
    population: dict[str, Positive]
    best: Best | None
    last: dict[str, float | None]
    alerts_total: Count
    alerting: list[str]
    train_seconds: float
    wall_seconds: float
    threads: Annotated[int, Meta(ge=1, le=MOST_THREADS)]
    rng: dict[str, Any]
    heartbeat: dict[str, Any]
    scenario: dict[str, Any]
    logs: dict[str, SavedLog | None]
    # A checkpoint of before these were counted has none.
    eval_tokens: Count = 0
    probe_tokens: Count = 0


def check_state(
    path: Path, step: int, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Check a run's state against types, tensors and step. Raises StorageError naming the file.

    State without the routers of a model is not that of a run, and is not checked.
    """
    rows = sorted(
        len(value) if value.ndim else 0
        for name, value in tensors["model"].items()
        if name.endswith("router.weight")
    )
    if not rows:
        return
    file = path / "state.json"
    try:
        run = msgspec.convert(state, RunState)
    except msgspec.ValidationError as error:
        raise bad_file(file, f"is not the state of a run ({error})") from error
    if run.step != step:
        raise bad_file(file, f"is of step {run.step}, expected {step}")
    if rows != sorted(run.population.values()):
        raise bad_file(file, f"tells of {sorted(run.population.values())} experts, found {rows}")
    for name in tensor_names(state):
        if not isinstance(name, str) or name not in tensors["state"]:
            raise bad_file(file, f"names tensor {str(name)[:80]!r}, which is not there")
