"""Checkpoints: safetensors and JSON under a manifest, written aside and renamed into place.

A folder ``checkpoints/step_00000400`` holds one ``.safetensors`` file per kind of tensors,
``state.json``, and ``MANIFEST.json`` with the size and sha256 of each file. No pickle anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from chronorun.core.files import TEMPORARY, fsync_dir, sha256_file
from chronorun.core.jsonl import encode_json
from chronorun.core.processes import ALONE, Processes
from chronorun.core.run_files import ARCHIVE, CHECKPOINTS
from chronorun.core.tensor_files import load_tensors
from chronorun.errors import ChronorunError, StorageError
from chronorun.training.checkpoints.manifest import (
    KINDS,
    MANIFEST,
    bad_file,
    make_manifest,
    read_file,
    read_manifest,
)
from chronorun.training.checkpoints.state import check_state


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: tensors by kind and name, and plain state."""

    step: int
    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run_dir / CHECKPOINTS / f"step_{step:08d}"


def save_checkpoint(
    run_dir: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write a checkpoint so that it exists whole or not at all, and return its folder.

    ``tensors`` holds named tensors by kind (``model, optimizer, state``), ``state`` plain data. A
    good checkpoint of that step is left as it is, a damaged one is replaced. Raises StorageError
    when the disk refuses; nothing is left behind then.
    """
    assert set(tensors) <= set(KINDS), f"unknown kinds of tensors: {sorted(tensors)}"
    target = checkpoint_path(run_dir, step)
    if target.exists() and _is_good(target):
        return target
    partial = target.parent / f".partial-{target.name}-{os.getpid()}"
    try:
        _discard(partial)
        partial.mkdir(parents=True)
        _fill(partial, step, tensors, state)
        if target.exists():
            _discard(target)
        partial.rename(target)
        fsync_dir(target.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"checkpoint: {target} cannot be written ({error.strerror or error}); "
            f"free some disk space and resume from the one before"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _fill(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> None:
    for kind in KINDS:
        data = save_safetensors(_plain(tensors.get(kind, {})))
        _write(folder / f"{kind}.safetensors", data)
    _write(folder / "state.json", encode_json(state))
    _write(folder / MANIFEST, encode_json(make_manifest(folder, step)))
    fsync_dir(folder)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory or are not contiguous.
    dense = torch.contiguous_format
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=dense)
        for name, tensor in tensors.items()
    }


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _discard(path: Path) -> None:
    """Remove a folder, under another name first: a kill must not leave half of it under its own."""
    if not path.exists():
        return
    doomed = path.with_name(f".removed-{path.name.lstrip('.')}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _is_good(path: Path) -> bool:
    try:
        for name, entry in read_manifest(path).files.items():
            if sha256_file(path / name) != entry.sha256:
                return False
    except (StorageError, OSError):
        return False
    return True


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking all of it. Raises StorageError naming the bad file."""
    try:
        manifest = read_manifest(path)
        tensors = {}
        for kind in KINDS:
            name = f"{kind}.safetensors"
            tensors[kind] = load_tensors(read_file(path / name, manifest.files[name]))
        text = read_file(path / "state.json", manifest.files["state.json"])
        state = msgspec.json.decode(text, type=dict[str, Any])
    except (SafetensorError, msgspec.DecodeError, OSError, ValueError, RecursionError) as error:
        raise bad_file(path, f"cannot be read ({error})") from error
    check_state(path, manifest.step, state, tensors)
    return Checkpoint(manifest.step, path, tensors, state)


@contextmanager
def as_checkpoint_error(
    checkpoint: Checkpoint | None, processes: Processes = ALONE
) -> Iterator[None]:
    """Turn any error while a run is built from a checkpoint into a StorageError that names it.

    Hashes show that a file is what was written, not that it is the state of this run: a key may be
    missing anywhere in it, a value or tensor be of another type or shape.
    """
    try:
        yield
    except (ChronorunError, OSError, MemoryError):
        raise
    except Exception as error:
        if checkpoint is None or processes.is_broken(error):
            raise
        what = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise bad_file(checkpoint.path, f"does not fit this run ({what})") from error


def step_of(path: Path) -> int:
    """Return the step in a checkpoint folder's name."""
    return int(path.name.removeprefix("step_"))


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    folder = run_dir / CHECKPOINTS
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if re.fullmatch(r"step_\d{8,}", p.name))
    return sorted(found, key=step_of)


def newest_good_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a notice for each one passed over."""
    notices: list[str] = []
    for path in reversed(list_checkpoints(run_dir)):
        try:
            return load_checkpoint(path), notices
        except StorageError as error:
            notices.append(f"passed over a damaged checkpoint: {error}")
    return None, notices


def best_of(paths: Sequence[Path], best_step: int) -> Path | None:
    """Return the checkpoint of the best step or, where it was not saved, the newest before it."""
    before = [path for path in paths if step_of(path) <= best_step]
    return before[-1] if before else None


def prune_checkpoints(run_dir: Path, keep_last: int, best_step: int | None) -> None:
    """Remove all but the newest ``keep_last`` checkpoints and the best one (see ``best_of``)."""
    paths = list_checkpoints(run_dir)
    keep = {*paths[-keep_last:]}
    if best_step is not None:
        keep |= {path for path in (best_of(paths, best_step),) if path is not None}
    for path in paths:
        if path not in keep:
            _discard(path)


def set_aside_newer(run_dir: Path, step: int) -> list[str]:
    """Rename checkpoints beyond ``step`` to ``<name>.orphaned-N`` and return a notice for each.

    For a run that continues from an older checkpoint: those beyond it record logs that the resumed
    run writes anew, so that a later resume must not pick them.
    """
    notices: list[str] = []
    for path in list_checkpoints(run_dir):
        if step_of(path) > step:
            number = 1
            while (aside := path.with_name(f"{path.name}.orphaned-{number}")).exists():
                number += 1
            path.rename(aside)
            notices.append(f"set aside {path.name}, newer than the one resumed from: {aside}")
    return notices


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed save, removal or write of a file left behind."""
    folder = run_dir / CHECKPOINTS
    for pattern in (".partial-*", ".removed-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for written in (run_dir, run_dir / ARCHIVE):
        for path in written.glob(TEMPORARY):
            path.unlink(missing_ok=True)


def rng_state() -> dict[str, Tensor]:
    """Return the states of torch's global generators."""
    state = {"cpu": torch.get_rng_state()}
    # Asking an unused GPU would start it.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restore what ``rng_state`` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state: ``<parameter name>.exp_avg``, ``.exp_avg_sq``, ``.step``.

    In the order of the model's parameters and of these names, not in the optimizer's.
    """
    return {
        f"{name}.{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in sorted(optimizer.state.get(parameter, {}).items())
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore what ``optimizer_tensors`` returned, bit for bit; other state is dropped.

    The order of ``tensors`` does not matter: the optimizer's state is in the order of the names.
    Raises StorageError for tensors that do not fit the model's parameters.
    """
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in sorted(tensors.items()):
        name, _, entry = key.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None or (entry != "step" and value.shape != parameter.shape):
            expected = None if parameter is None else list(parameter.shape)
            raise StorageError(
                f"checkpoint: optimizer tensor {key} has shape {list(value.shape)}, expected "
                f"{expected or 'no such tensor'}; resume with the model it was saved from"
            )
        # Fused AdamW wants the step count on the parameter's device, like the moments.
        optimizer.state[parameter][entry] = value.to(parameter.device, copy=True)
