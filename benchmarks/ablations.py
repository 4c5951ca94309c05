"""What the open questions of the design come to: one option at a time, paired by seed.

    python benchmarks/ablations.py                       # 6 questions, 2 scenarios, 6 seeds: hours
    python benchmarks/ablations.py --questions child_moments --seeds 3 --work outputs/ablations

Each question is one option of the lifecycle with all its values. For each, ``chronorun bench``
trains the lifecycle arm alone, with ``lifecycle=aggressive`` so that there are edits, in two
scenarios. Shown is a value's validation loss less that of the default, paired by seed, with a
bootstrap interval. There are no tests and no verdicts: six seeds rank options, they settle nothing.
What is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from chronorun.analysis.bench_results import JobResult, paired, read_result
from chronorun.analysis.statistics import bca_interval
from chronorun.config.lifecycle import LifecycleConfig

QUESTIONS = {
    "child_moments": ("zero_m", "zero", "inherit", "scale"),
    "router_change": ("patch", "reinit"),
    "split_release": ("shock", "fixed", "at_once"),
    "spawn_init_strategy": ("clone_and_perturb", "mean_cluster", "random"),
    "merge_logit_offset": ("match", "zero", "ln2"),
    "cross_layer": ("none", "depth_balance"),
}
"""Field of the lifecycle -> its values, the default first."""
SCENARIOS = ("too_many", "planted_redundancy")
WANTED = {
    "split_release": ("SPLIT",),
    "spawn_init_strategy": ("SPAWN",),
    "merge_logit_offset": ("MERGE",),
}
"""The edits that a question is about; a run without one says nothing of it."""


@dataclass(frozen=True)
class Row:
    """One value of one option in one scenario; losses in nats per token."""

    question: str
    scenario: str
    value: str
    seeds: int
    loss: float
    difference: float
    low: float
    high: float
    edits: float
    concerned: float


def sweep(question: str, seeds: list[int], work: Path, extra: list[str]) -> list[JobResult]:
    """Train what is missing of one question; return all of its jobs."""
    run_id = f"ablation-{question}"
    command = [
        *(sys.executable, "-m", "chronorun", "bench", "--multirun", "arm=lifecycle"),
        *(f"scenario={','.join(SCENARIOS)}", f"seed={','.join(map(str, seeds))}"),
        *("lifecycle=aggressive", f"lifecycle.{question}={','.join(QUESTIONS[question])}"),
        *("tracking=no_wandb", f"output_dir={work}", f"run_id={run_id}", *extra),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    folders = (work / "bench" / run_id).glob("*/job.json")
    found = [read_result(path.parent) for path in folders]
    return [result for result in found if result is not None]


def rows_of(question: str, results: list[JobResult]) -> list[Row]:
    """Return a row for each scenario and value."""
    field, values = f"lifecycle.{question}", QUESTIONS[question]
    assert values[0] == getattr(LifecycleConfig(), question).name, "the default comes first"
    rows = []
    for scenario in SCENARIOS:
        base = paired(results, scenario, f"{field}={values[0]}", "lifecycle", "val_loss")
        for value in values:
            rows.append(_row(results, question, scenario, value, base))
    return rows


def _row(
    results: list[JobResult], question: str, scenario: str, value: str, base: dict[int, float]
) -> Row:
    variant = f"lifecycle.{question}={value}"
    mine = paired(results, scenario, variant, "lifecycle", "val_loss")
    both = sorted(mine.keys() & base.keys())
    differences = [mine[seed] - base[seed] for seed in both]
    low, high = bca_interval(differences)
    edits = paired(results, scenario, variant, "lifecycle", "edits")
    concerned = [
        paired(results, scenario, variant, "lifecycle", f"edits/{action}")
        for action in WANTED.get(question, ())
    ]
    return Row(
        question,
        scenario,
        value,
        len(both),
        fmean(mine.values()) if mine else math.nan,
        fmean(differences) if differences else math.nan,
        low,
        high,
        fmean(edits.values()) if edits else math.nan,
        fmean(sum(each.values()) / max(len(each), 1) for each in concerned)
        if concerned
        else math.nan,
    )


def table(rows: list[Row]) -> list[str]:
    """Return the rows as Markdown, a table for each question."""
    lines = []
    for question in dict.fromkeys(row.question for row in rows):
        concerned = " + ".join(WANTED.get(question, ())) or "-"
        lines += [
            f"## {question}",
            "",
            f"| scenario | value | loss | difference to `{QUESTIONS[question][0]}` | edits "
            f"| of them {concerned} |",
            "|---|---|---|---|---|---|",
        ]
        for row in (r for r in rows if r.question == question):
            shown = f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})"
            shown = "0" if row.value == QUESTIONS[question][0] else shown
            named = "-" if math.isnan(row.concerned) else f"{row.concerned:.1f}"
            lines.append(
                f"| {row.scenario} | `{row.value}` | {row.loss:.4f} | {shown} | {row.edits:.1f} "
                f"| {named} |"
            )
        lines.append("")
    return lines


def main() -> None:
    """Train, print, and write results where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("outputs/ablations"))
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json, too")
    parser.add_argument("overrides", nargs="*", help="for the bench: hydra/launcher=joblib, ...")
    options = parser.parse_args()
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    rows = []
    for question in options.questions:
        rows += rows_of(question, sweep(question, seeds, options.work, options.overrides))
    head = [
        "Validation loss in nats per token of nano, 400 steps, `lifecycle=aggressive`; differences "
        "paired by seed, with a 95% BCa bootstrap interval. Below 0 is better than the default.",
        "",
        f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, one "
        f"thread a run; seeds {seeds[0]} to {seeds[-1]}.",
        "",
    ]
    text = "\n".join([*head, *table(rows)])
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(f"# Ablations\n\n{text}")
        plain = [asdict(row) for row in rows]
        options.out.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
