"""``chronorun train``: one run, or a sweep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.cli import hydra_bridge
from chronorun.cli.help import print_train_help
from chronorun.cli.resume import continue_run
from chronorun.config.compose import compose_run, to_run_config
from chronorun.config.run import RunConfig
from chronorun.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

RESERVED = ("run", "bench", "multirun")


def train_command(arguments: Sequence[str]) -> None:
    """Train as the arguments say; every mistake is found before a folder is made."""
    call = hydra_bridge.parse(arguments)
    if call.wants_help:
        print_train_help()
        return
    if not call.runs_jobs:
        hydra_bridge.run(call, lambda composed: None)
        return
    if call.arguments.experimental_rerun is None:
        _check(call)
    hydra_bridge.run(call, _train_job)


def _check(call: hydra_bridge.HydraCall) -> None:
    if not call.multirun:
        call.overrides[:] = continue_run(call.overrides)
    config, _ = compose_run(call.overrides, call.extra_dir)
    if call.multirun:
        return
    check_run_id(config.run_id)
    folder = Path(config.output_dir) / config.run_id
    if folder.exists() and config.resume is None:
        raise UserError(
            f"run folder: {folder} exists, expected a new run_id; "
            f"add resume=auto to continue it, or choose another run_id"
        )


def check_run_id(run_id: str) -> None:
    """Refuse ids that are reserved or could leave the output folder."""
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._=,+-]{0,199}", run_id)
    if run_id in RESERVED or not plain:
        raise UserError(
            f"configuration: run_id={run_id}, expected letters, digits and . _ - = , + "
            f"(and none of {', '.join(RESERVED)}); choose another name"
        )


def _train_job(composed: DictConfig) -> dict[str, Any]:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN:
        # All jobs of a sweep share this process's fresh id; the folder tells them apart.
        composed.run_id = f"{run_dir.parent.name}-{run_dir.name}"
        composed.output_dir = str(run_dir.parent)
    else:
        run_dir = Path(composed.output_dir) / composed.run_id
    return _train(to_run_config(composed), composed, run_dir)


def _train(config: RunConfig, composed: DictConfig, run_dir: Path) -> dict[str, Any]:
    from chronorun.tracking import build_trackers
    from chronorun.training import run_training

    return run_training(config, composed, run_dir, build_trackers(config, run_dir))
