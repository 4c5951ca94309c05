"""What the open questions of the design come to: one option at a time, paired by seed.

    python benchmarks/ablations.py         # 6 questions, 2 scenarios, 6 seeds: 150 runs of nano
    python benchmarks/ablations.py --questions child_moments --seeds 3 --work outputs/ablations

Each question is one option of the lifecycle with all its values. For the defaults, and for each
other value, ``chronorun bench`` trains the lifecycle arm alone, with ``lifecycle=aggressive`` so
that there are edits, in two scenarios, chosen so that there are edits that the question is about.
Shown is a value's validation loss less that of the default, paired by seed, with a bootstrap
interval. There are no tests and no verdicts: six seeds rank options, they settle nothing. What is
there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from chronorun.bench.evidence.results import JobResult, read_result
from chronorun.bench.evidence.statistics import bca_interval
from chronorun.config.lifecycle import LifecycleConfig

DEFAULTS = "defaults"
"""The sweep in which every option has its default: all questions share it."""


@dataclass(frozen=True)
class Question:
    """The values of a field of the lifecycle, the default first, and where they are compared.

    ``edits`` are the ones that the question is about, none: any; nothing is said where none of
    them is made.
    """

    values: tuple[str, ...]
    scenarios: tuple[str, ...]
    edits: tuple[str, ...] = ()


# A layer of too_many is at its limit of sixteen: it prunes and splits, and spawns nothing.
CROWDED, GROWING = ("too_many", "planted_redundancy"), ("too_few", "planted_redundancy")
QUESTIONS = {
    "child_moments": Question(("zero_m", "zero", "inherit", "scale"), CROWDED, ("SPAWN", "SPLIT")),
    "router_change": Question(("patch", "reinit"), CROWDED),
    "split_release": Question(("shock", "fixed", "at_once"), CROWDED, ("SPLIT",)),
    "spawn_init_strategy": Question(
        ("clone_and_perturb", "mean_cluster", "random"), GROWING, ("SPAWN",)
    ),
    "merge_logit_offset": Question(("match", "zero", "ln2"), GROWING, ("MERGE",)),
    "cross_layer": Question(("none", "depth_balance"), GROWING, ("SPAWN",)),
}


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


def sweep(
    name: str, scenarios: Iterable[str], options: list[str], seeds: list[int], work: Path
) -> list[JobResult]:
    """Train what is missing of a sweep of the lifecycle arm; return its jobs of these seeds."""
    run_id = f"ablation-{name}"
    command = [
        *(sys.executable, "-m", "chronorun", "bench", "--multirun", "arm=lifecycle"),
        *(f"scenario={','.join(scenarios)}", f"seed={','.join(map(str, seeds))}"),
        *("lifecycle=aggressive", "tracking=no_wandb", f"output_dir={work}", f"run_id={run_id}"),
        *options,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    folders = (work / "bench" / run_id).glob("*/job.json")
    found = [read_result(path.parent) for path in folders]
    return [result for result in found if result is not None and result.seed in seeds]


def values_of(question: str, results: list[JobResult]) -> dict[str, list[JobResult]]:
    """Return the jobs of a question's sweep by value."""
    others = QUESTIONS[question].values[1:]
    # The bench names what it sweeps; a single value is no sweep.
    names = {v: f"lifecycle.{question}={v}" if len(others) > 1 else "" for v in others}
    return {v: [r for r in results if r.variant == name] for v, name in names.items()}


def rows_of(question: str, default: list[JobResult], results: list[JobResult]) -> list[Row]:
    """Return a row for each scenario and value."""
    found = {QUESTIONS[question].values[0]: default, **values_of(question, results)}
    return [
        _row(question, scenario, value, jobs, default)
        for scenario in QUESTIONS[question].scenarios
        for value, jobs in found.items()
    ]


def _row(
    question: str, scenario: str, value: str, jobs: list[JobResult], default: list[JobResult]
) -> Row:
    mine, base = _figures(jobs, scenario, "val_loss"), _figures(default, scenario, "val_loss")
    both = sorted(mine.keys() & base.keys())
    differences = [mine[seed] - base[seed] for seed in both]
    low, high = bca_interval(differences)
    edits = _figures(jobs, scenario, "edits")
    concerned = [
        _figures(jobs, scenario, f"edits/{action}") for action in QUESTIONS[question].edits
    ]
    return Row(
        question,
        scenario,
        value,
        len(both),
        fmean(mine[seed] for seed in both) if both else math.nan,
        fmean(differences) if differences else math.nan,
        low,
        high,
        fmean(edits.values()) if edits else math.nan,
        sum(fmean(each.values()) for each in concerned if each) if concerned else math.nan,
    )


def _figures(jobs: list[JobResult], scenario: str, metric: str) -> dict[int, float]:
    """Return a metric by seed."""
    here = ((job.seed, job.value(metric)) for job in jobs if job.scenario == scenario)
    return {seed: value for seed, value in sorted(here) if value is not None}


def table(rows: list[Row]) -> list[str]:
    """Return the rows as Markdown, a table for each question."""
    lines = []
    for question in dict.fromkeys(row.question for row in rows):
        concerned = " + ".join(QUESTIONS[question].edits) or "-"
        lines += [
            f"## {question}",
            "",
            f"| scenario | value | loss | difference to `{QUESTIONS[question].values[0]}` | edits "
            f"| of them {concerned} |",
            "|---|---|---|---|---|---|",
        ]
        for row in (r for r in rows if r.question == question):
            shown = f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})"
            if row.value == QUESTIONS[question].values[0]:
                shown = "0"
            elif row.concerned == 0:
                shown = "no such edit"
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
    for name, question in QUESTIONS.items():
        assert question.values[0] == getattr(LifecycleConfig(), name).name, (
            "the default comes first"
        )
    asked = sorted(
        {scenario for name in options.questions for scenario in QUESTIONS[name].scenarios}
    )
    default = sweep(DEFAULTS, asked, options.overrides, seeds, options.work)
    rows = []
    for question in options.questions:
        extra = [
            f"lifecycle.{question}={','.join(QUESTIONS[question].values[1:])}",
            *options.overrides,
        ]
        found = sweep(question, QUESTIONS[question].scenarios, extra, seeds, options.work)
        rows += rows_of(question, default, found)
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
