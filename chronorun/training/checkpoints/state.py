"""What the state of a run in a checkpoint must look like before anything is built from it.

Hashes tell of damage, not of intent: whoever writes a checkpoint writes its hashes, too.
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
    """The parts of ``state.json`` that are plain; those within ``heartbeat`` check themselves."""

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

    State that comes without the routers of a model is no run's: it is left to whoever wrote it.
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


def check_types(found: Any, fresh: Any, path: str) -> None:
    """Check nested state against that of a run at its start, wherever that has a value.

    Raises TypeError naming the first value of another kind. None says nothing of a kind; a float
    that is not finite was saved as None, and a text may be optional.
    """
    if fresh is None or (found is None and isinstance(fresh, float | str)):
        return
    if _kind(found) is not _kind(fresh):
        raise TypeError(f"{path} is a {type(found).__name__}, expected a {type(fresh).__name__}")
    if isinstance(fresh, Tensor):
        if (found.dtype, found.ndim) != (fresh.dtype, fresh.ndim):
            raise TypeError(f"{path} is of {found.dtype}, {found.ndim}-d, expected {fresh.dtype}")
    elif isinstance(fresh, Mapping):
        for key in sorted(fresh.keys() & found.keys()):
            check_types(found[key], fresh[key], f"{path}.{key}")
    elif isinstance(fresh, list | tuple):
        # Of a list that is empty at the start only this is known: numbers stay among themselves.
        like = fresh or (found if found and _kind(found[0]) is _NUMBER else [])
        if len({_kind(value) for value in fresh}) <= 1:
            for place, value in enumerate(found if like else ()):
                check_types(value, like[0], f"{path}[{place}]")


def _kind(value: Any) -> Any:
    return next(kind for kind in _KINDS if isinstance(value, kind))


_NUMBER = int | float
_KINDS: tuple[Any, ...] = (Tensor, Mapping, list | tuple, str, bool, _NUMBER, object)
