"""Validation loss with and without the lifecycle, seed by seed, on real training runs.

    python benchmarks/with_without.py                  # 5 seeds, both jobs: 20 runs, half an hour
    python benchmarks/with_without.py --jobs default --seeds 5 --work outputs/with_without

Two jobs: ``default`` is ``chronorun train`` as it comes; ``overprovisioned`` has 16 experts, top-1
and no balancing. Each is trained with ``lifecycle=off`` and ``lifecycle=aggressive`` from the same
initial weights on the same batches. This compares two arms and proves no cause: more experts are
more parameters, and matched controls are another benchmark's business. Runs are kept below
``--work`` and not repeated; a difference below 0 is in favour of the lifecycle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chronorun.analysis.replay.sweep import replay_sweep

JOBS = {"default": (), "overprovisioned": ("experiment=overprovisioned",)}
PRESETS = ("off", "aggressive")
COMMON = ("training.threads=1", "training.checkpoint_interval=0", "tracking=no_wandb",
          "tracking.progress=false")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Both arms of one seed; losses in nats per byte."""

    job: str
    seed: int
    off: float
    aggressive: float
    edits: dict[str, int]
    population: dict[str, int]

    @property
    def relative(self) -> float:
        """The difference over the loss without a lifecycle."""
        return (self.aggressive - self.off) / self.off


def train(job: str, preset: str, seed: int, work: Path) -> dict[str, Any]:
    """Train one run unless it is there already; return its summary."""
    run_id = f"{job}-{preset}-{seed}"
    summary = work / run_id / "summary.json"
    if not summary.exists():
        command = [
            *(sys.executable, "-m", "chronorun", "train", *COMMON, *JOBS[job]),
            *(f"lifecycle={preset}", f"seed={seed}", f"run_id={run_id}", f"output_dir={work}"),
            "resume=auto",
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
    loaded: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return loaded


def measure(jobs: list[str], seeds: list[int], work: Path, parallel: int) -> list[Row]:
    """Train all runs and pair them by seed."""
    wanted = [(job, preset, seed) for job in jobs for seed in seeds for preset in PRESETS]
    with ThreadPoolExecutor(parallel) as pool:
        done = dict(zip(wanted, pool.map(lambda w: train(*w, work), wanted), strict=True))
    return [
        Row(
            job,
            seed,
            done[job, "off", seed]["val_loss_per_byte"],
            done[job, "aggressive", seed]["val_loss_per_byte"],
            {a: n for a, n in done[job, "aggressive", seed]["lifecycle"].items() if n},
            done[job, "aggressive", seed]["population"],
        )
        for job in jobs
        for seed in seeds
    ]


def replayed(jobs: list[str], seeds: list[int], work: Path) -> str:
    """Derive every decision of the runs again; return how many were reproduced, in a line."""
    wanted = [work / f"{j}-{p}-{s}" for j in jobs for s in seeds for p in PRESETS]
    sweep = replay_sweep(work, wanted)
    for one in sweep.runs:
        if not one.is_reproduced:
            print(f"not reproduced: chronorun replay {one.path}", file=sys.stderr)
    return sweep.words()


def table(rows: list[Row]) -> list[str]:
    """Return the table as Markdown."""
    lines = []
    for job in dict.fromkeys(row.job for row in rows):
        mine = [row for row in rows if row.job == job]
        lines += [
            f"### {job}",
            "",
            "| seed | off | aggressive | difference | edits | experts at the end |",
            "|---|---|---|---|---|---|",
        ]
        for row in mine:
            edits = ", ".join(f"{a} {n}" for a, n in row.edits.items()) or "none"
            experts = " ".join(str(n) for n in row.population.values())
            lines.append(
                f"| {row.seed} | {row.off:.4f} | {row.aggressive:.4f} | {100 * row.relative:+.2f}% "
                f"| {edits} | {experts} |"
            )
        off, on = (statistics.fmean(getattr(r, arm) for r in mine) for arm in PRESETS)
        mean = statistics.fmean(row.relative for row in mine)
        worst = max(row.relative for row in mine)
        total = sum((Counter(row.edits) for row in mine), Counter())
        edits = ", ".join(f"{a} {n}" for a, n in total.items())
        lines += [
            f"| mean | {off:.4f} | {on:.4f} | {100 * mean:+.2f}% (worst {100 * worst:+.2f}%) "
            f"| {edits} | |",
            "",
        ]
    return lines


def main() -> None:
    """Train, print, and write results where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("outputs/with_without"))
    parser.add_argument("--parallel", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json, too")
    options = parser.parse_args()
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    rows = measure(options.jobs, seeds, options.work, options.parallel)
    head = [
        "Validation loss in nats per byte at the end of 500 steps, `lifecycle=off` against "
        "`lifecycle=aggressive`.",
        "",
        f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, one "
        f"thread a run; seeds {seeds[0]} to {seeds[-1]}; "
        f"`python benchmarks/with_without.py --seeds {options.seeds} --first-seed {seeds[0]}`.",
        "",
    ]
    text = "\n".join([*head, *table(rows), replayed(options.jobs, seeds, options.work)]) + "\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(f"# With and without the lifecycle\n\n{text}")
        plain = [dict(vars(row)) | {"relative": row.relative} for row in rows]
        options.out.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
