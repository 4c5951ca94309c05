"""Checkpoints: safetensors and JSON under a manifest, written aside and renamed into place.

A folder ``checkpoints/step_00000400`` holds one ``.safetensors`` file per kind of tensors, ``state.json``,
and ``MANIFEST.json`` with the size and sha256 of each file. No pickle is written or read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from chronorun.core.files import fsync_dir, sha256_file
from chronorun.errors import StorageError

KINDS = ("model", "optimizer", "state")
FILES = {f"{kind}.safetensors" for kind in KINDS} | {"state.json"}
MANIFEST = "MANIFEST.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: tensors by kind and name, and plain state."""

    step: int
    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


def save_checkpoint(
    run_dir: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write a checkpoint so that it exists whole or not at all.

    A good checkpoint of that step is left as it is; a damaged one is replaced.
    """
    target = checkpoint_path(run_dir, step)
    if target.exists():
        try:
            _verify(target)
        except StorageError:
            shutil.rmtree(target)
        else:
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".partial-{target.name}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for kind in KINDS:
            data = save_safetensors(_plain(tensors.get(kind, {})))
            _write(partial / f"{kind}.safetensors", data)
        _write(partial / "state.json", msgspec.json.encode(state))
        _write(partial / MANIFEST, msgspec.json.encode(_manifest(partial, step)))
        fsync_dir(partial)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    fsync_dir(target.parent)
    return target


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory or are not contiguous.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _manifest(folder: Path, step: int) -> dict[str, Any]:
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(FILES)
    }
    return {"schema_version": SCHEMA_VERSION, "step": step, "files": files}


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    schema_version: int
    step: int
    files: dict[str, _Entry]


def _bad(path: Path, what: str) -> StorageError:
    return StorageError(f"checkpoint: {path} {what}; resume from another checkpoint")


def _verify(path: Path) -> _Manifest:
    """Check names, sizes and hashes. Raises StorageError naming the first bad file."""
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=_Manifest)
    except FileNotFoundError as error:
        raise _bad(path / MANIFEST, "is missing") from error
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise _bad(path / MANIFEST, f"cannot be read ({error})") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise _bad(path / MANIFEST, f"has schema_version={manifest.schema_version}, expected 1")
    if f"step_{manifest.step:08d}" != path.name:
        raise _bad(path / MANIFEST, f"says step {manifest.step}")
    for item in path.iterdir():
        if item.name not in FILES | {MANIFEST} or item.is_symlink():
            raise _bad(item, "does not belong to a checkpoint")
    if set(manifest.files) != FILES:
        raise _bad(path / MANIFEST, f"lists {sorted(manifest.files)}")
    for name, entry in manifest.files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            raise _bad(file, f"has {size} bytes, expected {entry.bytes}")
        if sha256_file(file) != entry.sha256:
            raise _bad(file, "differs from its sha256")
    return manifest


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking all of it. Raises StorageError naming the bad file."""
    if not path.is_dir() or path.is_symlink():
        raise _bad(path, "is not a checkpoint folder")
    manifest = _verify(path)
    try:
        tensors = {
            kind: load_safetensors((path / f"{kind}.safetensors").read_bytes()) for kind in KINDS
        }
        state = msgspec.json.decode((path / "state.json").read_bytes(), type=dict[str, Any])
    except (SafetensorError, msgspec.DecodeError, OSError) as error:
        raise _bad(path, f"cannot be read ({error})") from error
    return Checkpoint(manifest.step, path, tensors, state)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    folder = run_dir / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"step_\d{8,}", p.name))


def newest_good_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a notice for each one passed over."""
    notices: list[str] = []
    for path in reversed(list_checkpoints(run_dir)):
        try:
            return load_checkpoint(path), notices
        except StorageError as error:
            notices.append(f"passed over a damaged checkpoint: {error}")
    return None, notices


def prune_checkpoints(run_dir: Path, keep_last: int, best_step: int | None) -> None:
    """Remove all but the newest ``keep_last`` checkpoints and the one of ``best_step``.

    Where the best step was not saved, the newest saved one before it counts as best.
    """
    paths = list_checkpoints(run_dir)
    keep = set(paths[-keep_last:])
    if best_step is not None:
        before = [p for p in paths if int(p.name.removeprefix("step_")) <= best_step]
        keep |= set(before[-1:])
    for path in paths:
        if path not in keep:
            # Renamed first: a kill in the middle must not leave half a checkpoint under its name.
            doomed = path.with_name(f".removed-{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed save or removal left behind."""
    folder = run_dir / "checkpoints"
    for pattern in (".partial-*", ".removed-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def rng_state() -> dict[str, Tensor]:
    """Return the states of torch's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restore what ``rng_state`` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as ``<parameter name>|<entry>`` tensors."""
    return {
        f"{name}|{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore what ``optimizer_tensors`` returned, bit for bit."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.partition("|")
        parameter = parameters[name]
        # A step count is a scalar wherever the parameter lives; fused AdamW wants it beside it.
        optimizer.state[parameter][entry] = value.to(parameter.device).clone()
