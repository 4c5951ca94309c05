"""What a sweep adds up to: records collected, verdicts, files, the table on the screen."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from chronorun import __version__
from chronorun.bench.evidence.results import FILE, JobResult, read_result
from chronorun.config.bench import FOLLOWERS
from chronorun.core.files import write_atomically
from chronorun.core.terminal import warn
from chronorun.core.threads import default_threads
from chronorun.errors import StorageError

if TYPE_CHECKING:
    from chronorun.bench.run.plan import JobKey, Sweep
    from chronorun.config.bench import BenchRunConfig

COMPUTE = ("active_flops_per_token", "executed_flops", "parameter_steps")
WALL = ("peak_memory_bytes", "seconds")
PACKAGES = ("torch", "numpy", "scipy", "hydra-core")


def conclude(folder: Path, sweep: Sweep, config: BenchRunConfig, commands: list[str]) -> int:
    """Write and show what the jobs found; return how many have no result."""
    from rich.console import Console

    from chronorun.bench.evidence.verdicts import VerdictRules, judge, to_json
    from chronorun.bench.report.curves import read_curves
    from chronorun.bench.report.results_csv import write_csv
    from chronorun.bench.report.screen import render_table
    from chronorun.bench.report.write import write_reports

    results = collect(folder, sweep)
    bench = config.bench
    rules = VerdictRules(margin=bench.margin, alpha=bench.alpha, confidence=bench.confidence)
    verdicts = judge(results, rules)
    write_csv(results, folder / "results.csv")
    write_atomically(folder / "verdicts.json", to_json(verdicts, rules, folder.name, results))
    write_reports(
        folder.name,
        verdicts,
        results,
        rules,
        commands,
        environment(config),
        folder,
        read_curves(results, folder),
    )
    _to_wandb(config, folder, verdicts, results)
    console = Console()
    console.print(render_table(verdicts, results, console.width), crop=False)
    console.print(f"folder  {folder}", markup=False, highlight=False, crop=False, soft_wrap=True)
    return sum(not result.has_metrics for result in results)


def collect(folder: Path, sweep: Sweep) -> list[JobResult]:
    """Return a record for every job of the sweep, in order; ``missing`` where one left none.

    What else the folder holds (seeds of an earlier, larger sweep) is left out.
    """
    found: dict[JobKey, JobResult] = {}
    for path in sorted(folder.glob(f"*/{FILE}")):
        try:
            result = read_result(path.parent)
        except StorageError as error:
            warn(str(error))
            continue
        if result is not None:
            found[result.scenario, result.variant, str(result.seed), result.arm] = result
    if sweep.is_drawn:
        drawn = sorted(found.values(), key=lambda r: (r.arm in FOLLOWERS, r.number, r.folder))
        return [replace(result, number=number) for number, result in enumerate(drawn)]
    return [
        replace(found[key], number=number) if key in found else _missing(number, key)
        for number, key in enumerate(sweep.keys())
    ]


def _missing(number: int, key: JobKey) -> JobResult:
    scenario, variant, seed, arm = key
    reason = "has left no record"
    return JobResult(number, "", arm, scenario, variant, int(seed), "missing", reason)


def environment(config: BenchRunConfig) -> dict[str, str]:
    """Return machine and versions, for the report."""
    return {
        "chronorun": __version__,
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {_processor()}",
        "threads per job": str(config.training.threads or default_threads()),
        "platform": sys.platform,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _to_wandb(
    config: BenchRunConfig, folder: Path, verdicts: Sequence[object], results: list[JobResult]
) -> None:
    from chronorun.tracking.sweep_summary import log_sweep

    names = ("scenario", "variant", "arm", "seed", "status")
    metrics = ("val_loss", "edits", *COMPUTE)
    rows = [
        [getattr(r, name) for name in names]
        + [r.metrics.get(name) for name in metrics]
        + [r.wall.get(name) for name in WALL]
        for r in results
    ]
    columns = (*names, *metrics, *WALL)
    words = [
        [getattr(v, name) for name in ("scenario", "variant", "verdict", "n", "reason")]
        for v in verdicts
    ]
    tables = {
        "bench/results": (columns, rows),
        "bench/verdicts": (("scenario", "variant", "verdict", "seeds", "reason"), words),
    }
    log_sweep(config.tracking.wandb, folder, tables, warn)
