"""One job of a bench: train, measure, leave a record."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from chronorun.bench.evidence.comparisons import LIFECYCLE
from chronorun.bench.evidence.results import FILE, JobResult, Status, read_result, write_result
from chronorun.bench.run.plan import DIMENSIONS
from chronorun.config.bench import FOLLOWERS, OnError
from chronorun.config.run import plain_name
from chronorun.core.files import write_atomically
from chronorun.core.jsonl import encode_json
from chronorun.core.run_files import ARCHIVE, CHECKPOINTS, HYDRA, TRAIN_LOG
from chronorun.errors import RunInterrupted, StorageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

ERROR_FILE = "error.txt"
BEGUN = ".begun.json"
"""While a job runs: the record it gets if its process is killed."""
_GATE = ".gate.json"
_HYDRAS = (HYDRA, TRAIN_LOG)


class Gate(msgspec.Struct):
    """Which jobs a launch runs, by folder; None: any. The others return at once.

    In a file, since only that reaches the jobs of every launcher.
    """

    only: list[str] | None = None
    never: list[str] = []

    def lets_through(self, name: str) -> bool:
        """Return whether a job may run."""
        return name not in self.never and (self.only is None or name in self.only)


@contextmanager
def close_gate(sweep_dir: Path, gate: Gate) -> Iterator[None]:
    """Let only some of a sweep's jobs through."""
    write_atomically(sweep_dir / _GATE, encode_json(gate))
    try:
        yield
    finally:
        (sweep_dir / _GATE).unlink(missing_ok=True)


def _gate_of(sweep_dir: Path) -> Gate:
    try:
        return msgspec.json.decode((sweep_dir / _GATE).read_bytes(), type=Gate)
    except FileNotFoundError:
        return Gate()


class SweepStopped(BaseException):
    """Carries ``bench.on_error=stop`` past Hydra, which would go on with the next job."""


def bench_job(composed: DictConfig) -> float | None:
    """Run one job of Hydra's unless it is done; return its validation loss."""
    from hydra.core.hydra_config import HydraConfig

    run_dir = Path(str(HydraConfig.get().runtime.output_dir))
    done = finished(run_dir)
    if done is not None:
        return done.metrics.get("val_loss")
    if not _gate_of(run_dir.parent).lets_through(run_dir.name):
        return None
    job = _Job(composed, run_dir)
    with job.marked():
        result = _run(job)
    if result.status == "failed" and composed.bench.on_error == OnError.stop:
        raise SweepStopped
    return result.metrics.get("val_loss")


def _run(job: _Job) -> JobResult:
    """Run a job and write its record."""
    try:
        result = job.run()
        (job.run_dir / ERROR_FILE).unlink(missing_ok=True)
    except RunInterrupted:
        raise
    except Exception as error:
        result = job.result("failed", f"{keep_error(error, job.run_dir)}; see {ERROR_FILE}")
    write_result(result, job.run_dir)
    return result


def keep_error(error: Exception, folder: Path) -> str:
    """Write an error's traceback into a folder; return in a line what it was."""
    text = "".join(traceback.format_exception(error))
    (folder / ERROR_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"


def finished(job_dir: Path) -> JobResult | None:
    """Return the record of a job that is done; None where it has to run, again perhaps."""
    try:
        result = read_result(job_dir)
    except StorageError:
        return None
    return result if result is not None and result.has_metrics else None


class _Job:
    """Where a job stands in the comparison, and how it is run."""

    def __init__(self, composed: DictConfig, run_dir: Path) -> None:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        self.composed, self.run_dir = composed, run_dir
        self.arm = str(hydra.runtime.choices["arm"])
        self.scenario = str(hydra.runtime.choices["scenario"])
        self.seed = int(composed.seed)
        self.number = int(hydra.job.num)
        # What all jobs share stands in no folder's name.
        known = {*hydra.job.config.override_dirname.exclude_keys, *DIMENSIONS}
        varied = [
            text
            for text in map(str, hydra.overrides.task)
            if text.partition("=")[0].lstrip("+") not in known
        ]
        self.variant = ",".join(varied)

    def result(self, status: Status, reason: str = "", **figures: Any) -> JobResult:
        """Return the record of this job."""
        return JobResult(
            self.number,
            self.run_dir.name,
            self.arm,
            self.scenario,
            self.variant,
            self.seed,
            status,
            reason,
            **figures,
        )

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Leave a mark in the folder that stays only where the process is killed."""
        mark = self.run_dir / BEGUN
        killed = self.result("failed", f"its process was killed; see {ERROR_FILE}")
        write_atomically(mark, encode_json(killed))
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def run(self) -> JobResult:
        """Train and measure, as far as the run that this one follows allows it."""
        if self.arm in FOLLOWERS:
            leader = self._leader()
            if leader is None or leader.status != "completed":
                why = "has not run" if leader is None else f"{leader.status}: {leader.reason}"
                return self.result("skipped", f"{LIFECYCLE} of this seed {why}")
            if not leader.metrics.get("edits"):
                return self.result("no_edit", metrics=leader.metrics)
            self._follow(leader)
        return self._train()

    def _leader(self) -> JobResult | None:
        wanted = (LIFECYCLE, self.scenario, self.variant, self.seed)
        for path in sorted(self.run_dir.parent.glob(f"*arm-{LIFECYCLE}*/{FILE}")):
            with suppress(StorageError):
                found = read_result(path.parent)
                if found and (found.arm, found.scenario, found.variant, found.seed) == wanted:
                    return found
        return None

    def _follow(self, leader: JobResult) -> None:
        if self.arm == "static_mean":
            mean = leader.metrics["mean_population"]
            assert mean is not None
            self.composed.model.num_experts = max(int(self.composed.model.top_k), round(mean))
        else:
            self.composed.edits.source = str(self.run_dir.parent / leader.folder)

    def _train(self) -> JobResult:
        from chronorun.bench.evidence.metrics import run_metrics, wall_figures
        from chronorun.config.compose import to_run_config
        from chronorun.core.peak_memory import PeakMemory
        from chronorun.tracking import build_trackers
        from chronorun.training import run_training

        composed = self._plain_run()
        config = to_run_config(composed)
        with PeakMemory() as memory:
            run_training(
                config, composed, self.run_dir, build_trackers(config, self.run_dir, quiet=True)
            )
        metrics = run_metrics(self.run_dir)
        wall = wall_figures(self.run_dir) | {"peak_memory_bytes": memory.peak_bytes}
        if not self.composed.bench.keep_checkpoints:
            for name in (CHECKPOINTS, ARCHIVE):
                shutil.rmtree(self.run_dir / name, ignore_errors=True)
        return self.result("completed", metrics=metrics, wall=wall)

    def _plain_run(self) -> DictConfig:
        """Return the configuration as ``chronorun train`` would have it; clear a killed job."""
        from omegaconf import DictConfig, OmegaConf

        from chronorun.config.resume import has_checkpoints
        from chronorun.config.run import RunConfig

        sweep = self.run_dir.parent.name
        wandb = self.composed.tracking.wandb
        if not wandb.group and not os.environ.get("WANDB_RUN_GROUP"):
            wandb.group = sweep
        wandb.job_type = wandb.job_type or self.arm
        self.composed.run_id = plain_name(f"{sweep}-{self.run_dir.name}")
        if has_checkpoints(self.run_dir):
            self.composed.resume = "auto"
        else:
            _clear(self.run_dir)
        plain = OmegaConf.to_container(self.composed, resolve=False)
        assert isinstance(plain, dict)
        del plain["bench"]
        run = OmegaConf.merge(OmegaConf.structured(RunConfig), plain)
        assert isinstance(run, DictConfig)
        return run


def _clear(run_dir: Path) -> None:
    """Drop what a killed job left behind, but for what Hydra wrote for this one."""
    for path in run_dir.iterdir():
        if path.name in (*_HYDRAS, BEGUN):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
