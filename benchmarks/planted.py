"""Planted truth: does the lifecycle find what was put there, and leave alone what was not?

    python benchmarks/planted.py                  # 5 scenarios x 5 seeds, about 10 minutes
    python benchmarks/planted.py --seeds 10 --scenarios planted_two_mode --work runs

A model (nano, 400 steps, ``lifecycle=aggressive``) trains with something planted at step
``scenario.start_step``. A *hit* is the right action on the planted expert within 15 checkpoints.
Every other action of the run counts as a false positive here, also one that the signals justify:
this is the strictest reading. A healthy run under ``lifecycle=default`` has nothing to find: any
action is a false positive.

Precision = hits / (hits + false positives), recall = hits / seeds. Runs are kept below ``--work``
and not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKPOINTS = 15
COMMON = (
    "model=nano",
    "training.max_steps=400",
    "training.threads=1",
    "training.checkpoint_interval=0",
    "tracking=no_wandb",
    "tracking.progress=false",
)


@dataclass(frozen=True)
class Case:
    """A scenario, what it is run with, and which actions are right."""

    name: str
    overrides: tuple[str, ...]
    right: tuple[str, ...]


CASES = {
    case.name: case
    for case in (
        Case("planted_redundancy", ("scenario=planted_redundancy",), ("MERGE",)),
        Case("dead_expert", ("scenario=dead_expert", "scenario.duration=250"), ("PRUNE", "REVIVE")),
        Case("planted_two_mode", ("scenario=planted_two_mode",), ("SPLIT",)),
        Case("corrupted_expert", ("scenario=corrupted_expert",), ("SUSPECT",)),
        Case("healthy", ("scenario=none",), ()),
    )
}


@dataclass(frozen=True)
class Score:
    """What became of one run."""

    case: str
    seed: int
    hit: bool
    checkpoints: int | None
    others: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dict(vars(self)) | {"others": list(self.others)}


def records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log; none where it was never begun."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train(case: Case, seed: int, work: Path) -> Path:
    """Train one run unless it is there already; return its folder."""
    run_id = f"{case.name}-{seed}"
    folder = work / run_id
    if (folder / "summary.json").exists():
        return folder
    preset = "default" if case.name == "healthy" else "aggressive"
    command = [
        *(sys.executable, "-m", "chronorun", "train", *COMMON, *case.overrides),
        *(f"lifecycle={preset}", f"seed={seed}", f"run_id={run_id}", f"output_dir={work}"),
        "resume=auto",
    ]
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return folder


def planted_experts(folder: Path) -> tuple[int, set[str]]:
    """Return the step of the plant and the ids concerned."""
    for record in records(folder / "scenario_events.jsonl"):
        if record["event"] in ("planted", "start"):
            ids = {record.get("expert_id"), record.get("partner_id")} - {None}
            return record["step"], {str(name) for name in ids}
    return 0, set()


def found_suspects(folder: Path) -> list[tuple[int, str]]:
    """Return (step, expert) of each suspect alert."""
    return [
        (record["step"], name)
        for record in records(folder / "lifecycle_evaluations.jsonl")
        for name in record["suspects"]
    ]


def score(case: Case, seed: int, folder: Path) -> Score:
    """Compare what a run did with what was planted."""
    start, planted = planted_experts(folder)
    snapshots = [r["step"] for r in records(folder / "snapshots.jsonl") if r["step"] > start]
    hit_step, others = None, []
    for d in records(folder / "lifecycle_decisions.jsonl"):
        touched = {d["expert_id"], d["parent_id"], d["partner_id"]}
        # Of a plant of two, the two have to merge with each other.
        right = touched >= planted if d["action"] == "MERGE" else bool(touched & planted)
        in_time = start < d["step"] and sum(s <= d["step"] for s in snapshots) <= CHECKPOINTS
        if planted and d["action"] in case.right and right and in_time and hit_step is None:
            hit_step = d["step"]
        else:
            others.append(f"{d['action']}@{d['step']}")
    if "SUSPECT" in case.right:
        alerts = [(step, name) for step, name in found_suspects(folder) if step > start]
        hit_step = min((step for step, name in alerts if name in planted), default=None)
        others += [f"SUSPECT@{step}" for step, name in alerts if name not in planted]
    taken = None if hit_step is None else sum(step <= hit_step for step in snapshots)
    return Score(case.name, seed, taken is not None and taken <= CHECKPOINTS, taken, tuple(others))


def table(scores: list[Score]) -> list[str]:
    """Return the table, a line per scenario."""
    heads = (("right action", -16), ("found", 7), ("after", 7), ("others", 8), ("prec.", 7))
    head = "".join(f"{text:<{-w}}" if w < 0 else f"{text:>{w}}" for text, w in heads)
    lines = [f"{'scenario':<20}{head}{'recall':>8}"]
    for name, case in CASES.items():
        rows = [s for s in scores if s.case == name]
        if not rows:
            continue
        hits, others = sum(s.hit for s in rows), sum(len(s.others) for s in rows)
        after = sorted(s.checkpoints for s in rows if s.hit and s.checkpoints is not None)
        middle = str(after[len(after) // 2]) if after else "-"
        precision = f"{hits / (hits + others):.2f}" if case.right and hits + others else "-"
        recall = f"{hits / len(rows):.2f}" if case.right else "-"
        found = f"{hits}/{len(rows)}" if case.right else "-"
        what = "/".join(case.right).lower() or "none"
        lines.append(
            f"{name:<20}{what:<16}{found:>7}{middle:>7}{others:>8}{precision:>7}{recall:>8}"
        )
    return lines


def main() -> None:
    """Run, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds per scenario")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenarios", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--work", type=Path, default=Path("outputs/planted"))
    parser.add_argument("--json", type=Path, help="write the scores here, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    jobs = [
        (CASES[name], seed)
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for name in options.scenarios
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        folders = list(pool.map(lambda job: train(*job, options.work), jobs))
    scores = [score(case, seed, folder) for (case, seed), folder in zip(jobs, folders, strict=True)]
    last = options.first_seed + options.seeds - 1
    print(
        f"seeds {options.first_seed} to {last}, {platform.machine()}, Python "
        f"{platform.python_version()}; 'after': checkpoints until found, median"
    )
    print("\n".join(table(scores)))
    for s in scores:
        if s.others or not s.hit:
            print(f"  {s.case} seed {s.seed}: hit {s.hit}, others {' '.join(s.others) or '-'}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([s.to_dict() for s in scores], indent=1) + "\n")


if __name__ == "__main__":
    main()
