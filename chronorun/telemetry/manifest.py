"""What ran: the contents of ``run_manifest.json``."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = ("chronorun", "torch", "numpy", "hydra-core", "datasets", "tokenizers", "safetensors")


def get_git_commit(folder: Path | None = None) -> str | None:
    """Return the commit checked out in ``folder`` (default: here); None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            cwd=folder,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return Python's version and those of the libraries that decide a run's figures."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def create_run_manifest(
    run_id: str, model_name: str, config: Mapping[str, Any], git_commit: str | None = None
) -> dict[str, Any]:
    """Return a manifest: v2's fields taken from ``config`` where it has them, then ours.

    ``config`` may hold ``dataset, seed, architecture, training`` and anything else, which is kept
    under its own name. Without ``architecture`` its fields are looked up in ``config`` itself, as
    v2's callers pass them.
    """
    manifest: dict[str, Any] = {
        "run_id": run_id,
        "model_name": model_name,
        "dataset": config.get("dataset"),
        "seed": config.get("seed"),
        "architecture": config.get("architecture", _flat_architecture(config)),
        "training": config.get("training", {}),
        "git_commit": git_commit if git_commit is not None else get_git_commit(),
        "versions": library_versions(),
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "host_python": platform.python_implementation(),
        },
    }
    return manifest | {key: value for key, value in config.items() if key not in manifest}


def _flat_architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    names = ("n_layers", "n_experts_per_layer", "top_k", "capacity_factor")
    return {name: config[name] for name in names if name in config}
