"""A sweep in worker processes: joblib's launcher, as a person starts it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import NANO, Chronorun

QUICK = (*NANO, "training.max_steps=4", "training.eval_interval=2")


def test_jobs_of_a_sweep_run_in_worker_processes(
    chronorun_process: Chronorun, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = chronorun_process("train", *QUICK, "seed=0,1", "-m", *launcher, "run_id=sw")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "multirun" / "sw"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert names == ["0-seed-0", "1-seed-1"]
    assert all((folder / name / "summary.json").is_file() for name in names)
    assert not (tmp_path / "outputs" / "run").exists()


@pytest.mark.whole
def test_a_failing_job_in_a_worker_keeps_its_exit_code(chronorun_process: Chronorun) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    worse = ("optimizer.lr=1e-3,1e30", "optimizer.grad_clip=0")
    done = chronorun_process("train", *QUICK, *worse, "-m", *launcher)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("chronorun: error: training: ")
    assert "Traceback" not in done.stderr
