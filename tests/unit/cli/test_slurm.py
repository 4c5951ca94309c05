"""A sweep on Slurm: what is composed for submitit's launcher, and what it is handed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chronorun.config.compose import ConfigFiles, compose_checked
from chronorun.config.paths import conf_dir

pytest_plugins = ("cli_in_process",)

SWEEP = (
    "run_id=sw",
    "model=nano",
    "seed=0,1",
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.partition=gpu",
    "hydra.launcher.gpus_per_node=1",
    "hydra.launcher.timeout_min=90",
)


def test_a_slurm_launcher_is_composed() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    composition = compose_checked(SWEEP, ConfigFiles(conf_dir()), multirun=True)
    launcher = composition.hydra.hydra.launcher
    assert launcher._target_.endswith("submitit_launcher.SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node, launcher.timeout_min) == ("gpu", 1, 90)
    assert (launcher.nodes, launcher.tasks_per_node) == (1, 1)
    assert launcher.submitit_folder == "outputs/multirun/sw/.submitit/%j"


def test_a_sweep_is_handed_to_slurm(
    chronorun_here: Callable[..., Any], training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    handed: list[tuple[dict[str, Any], list[list[str]]]] = []

    def launch(self: Any, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        handed.append((self.params, [list(job) for job in jobs]))
        return []

    monkeypatch.setattr(SlurmLauncher, "launch", launch)
    done = chronorun_here("train", "--multirun", *SWEEP)
    assert done.code == 0, done.err
    [(parameters, jobs)] = handed
    assert parameters["partition"] == "gpu"
    assert parameters["timeout_min"] == 90
    assert [[text for text in job if text.startswith("seed=")] for job in jobs] == [
        ["seed=0"],
        ["seed=1"],
    ]
    assert training.runs == []
