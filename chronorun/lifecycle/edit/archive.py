"""Experts that left: their weights, moments and the inputs they knew, on disk or in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chronorun.core.files import write_atomically
from chronorun.core.state import from_plain, to_plain
from chronorun.core.tensor_files import load_tensors
from chronorun.errors import StorageError
from chronorun.lifecycle.edit.saved import Saved, flatten_saved, nest_saved


@dataclass(frozen=True)
class Archived:
    """One archived expert; ``centroid_D`` is the mean input of its layer when it left."""

    saved: Saved
    centroid_D: Tensor | None


class Archive:
    """Keeps each archived expert under its id; with a folder, one safetensors file each.

    The file's name carries the step, so that a run resumed from an earlier checkpoint finds the
    files that this checkpoint knows, even if more was archived later. The folder belongs to the run
    and is not part of the state. Without ``writes`` another process of the run writes the files.
    """

    def __init__(self, folder: Path | None = None, *, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self._memory: dict[str, Archived] = {}
        self._index: dict[str, dict[str, str]] = {}

    def __contains__(self, expert_id: str) -> bool:
        return expert_id in self._memory or expert_id in self._index

    def put(self, expert_id: str, step: int, archived: Archived) -> None:
        """Keep an expert. Raises StorageError when the disk refuses."""
        if self.folder is None:
            # A copy on the CPU: an accelerator's memory is given back.
            self._memory[expert_id] = _nested(_flat(archived))
            return
        from safetensors.torch import save

        name = f"{expert_id}-step{step:08d}.safetensors"
        _check_name(name)
        data = save(_flat(archived))
        if self.writes:
            _write(self.folder, name, data)
        self._index[expert_id] = {"file": name, "sha256": hashlib.sha256(data).hexdigest()}

    def get(self, expert_id: str) -> Archived:
        """Return an archived expert. Raises StorageError for a file that is gone or changed."""
        if self.folder is None:
            return self._memory[expert_id]
        from safetensors import SafetensorError

        entry = self._index[expert_id]
        _check_name(entry["file"])
        path = self.folder / entry["file"]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(
                f"archive: {path} cannot be read ({error.strerror}); restore the file"
            ) from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise StorageError(f"archive: {path} differs from its sha256; restore the file")
        try:
            return _nested(load_tensors(data))
        except SafetensorError as error:
            raise StorageError(
                f"archive: {path} is no file of tensors ({error}); restore the file"
            ) from error

    def drop(self, expert_id: str) -> None:
        """Forget an expert that lives again; a file stays, an earlier checkpoint may know it."""
        self._memory.pop(expert_id, None)
        self._index.pop(expert_id, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the index and, without a folder, the experts themselves."""
        memory = {name: _flat(archived) for name, archived in self._memory.items()}
        return to_plain({"index": self._index, "memory": memory})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._index = from_plain(dict[str, dict[str, str]], state["index"])
        memory = from_plain(dict[str, dict[str, Tensor]], state["memory"])
        self._memory = {name: _nested(flat) for name, flat in memory.items()}


def _write(folder: Path, name: str, data: bytes) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, data)
    except OSError as error:
        raise StorageError(
            f"archive: {folder / name} could not be written ({error.strerror}); "
            f"free some disk space, then resume"
        ) from error


def _check_name(name: str) -> None:
    # Ids and names come back from a checkpoint that anyone may have written.
    if re.fullmatch(r"\w+-step\d{8,}\.safetensors", name) is None:
        raise StorageError(
            f"archive: {name!r} is no name of an archived expert's file; "
            f"resume from another checkpoint"
        )


def _flat(archived: Archived) -> dict[str, Tensor]:
    flat = flatten_saved(archived.saved)
    if archived.centroid_D is not None:
        flat["centroid"] = archived.centroid_D
    dense = torch.contiguous_format
    return {k: v.detach().to("cpu", copy=True, memory_format=dense) for k, v in flat.items()}


def _nested(flat: Mapping[str, Tensor]) -> Archived:
    return Archived(nest_saved(flat), flat.get("centroid"))
