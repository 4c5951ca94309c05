"""What watching costs: telemetry, governance and an observing lifecycle, each on top of the other.

The run is the one of ``chronorun train`` (model tiny, its data, its intervals). The contenders take
every step in turn, and each its evaluation checkpoint at the end of a window. The figure is the
median over steps of the ratio within a step, less 1, plus the mean work of a checkpoint spread over
the steps of its window; least and largest are those of whole windows. Trials of suspects count.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from performance.rows import Row, summary_row, without_goals
from performance.runs import BenchmarkRun
from performance.timing import cpu_seconds, paired_ratios, turned

MUST, AIM = 0.02, 0.005
EVALUATION_MUST = 0.001
ARMS = {
    "nothing": ["telemetry=off", "governance=off"],
    "telemetry": ["governance=off"],
    "telemetry + governance": [],
    "the same + lifecycle=default, observing": ["lifecycle=dry_run"],
    "the same + lifecycle=aggressive, observing": [
        "lifecycle=aggressive",
        "lifecycle.dry_run=true",
    ],
}
OBSERVING = list(ARMS)[3]


@dataclass
class Seconds:
    """CPU seconds of one contender: of each step, and of each checkpoint."""

    steps: list[float] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)

    def windows(self, interval: int) -> list[float]:
        """Return the seconds of whole windows."""
        return [
            sum(self.steps[i * interval : (i + 1) * interval]) + beat
            for i, beat in enumerate(self.beats)
        ]


def measure(quick: bool) -> list[Row]:
    """Return what each contender adds to a step, and two parts of it by themselves."""
    model = "nano" if quick else "tiny"
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: BenchmarkRun([f"model={model}", *overrides], Path(folder) / str(index))
            for index, (name, overrides) in enumerate(ARMS.items())
        }
        seconds = take_turns(runs, windows=3 if quick else 12)
        saved = {name: cpu_seconds(runs[name].save) for name in ("nothing", OBSERVING)}
        rows = [_row(name, runs[name], seconds) for name in ARMS if name != "nothing"]
        rows += [_evaluation(runs[OBSERVING], seconds), _save(runs, saved, seconds)]
    return without_goals(rows) if quick else rows


def take_turns(runs: Mapping[str, BenchmarkRun], windows: int) -> dict[str, Seconds]:
    """Let every run take the same steps; the first window warms up and does not count."""
    names = list(runs)
    seconds = {name: Seconds() for name in names}
    interval = runs[names[0]].config.training.eval_interval
    for window in range(windows + 1):
        for turn in range(interval):
            for name in turned(names, window * interval + turn):
                seconds[name].steps.append(cpu_seconds(runs[name].take))
        for name in turned(names, window):
            seconds[name].beats.append(cpu_seconds(runs[name].beat))
        if window == 0:
            seconds = {name: Seconds() for name in names}
    return seconds


def _row(name: str, run: BenchmarkRun, seconds: Mapping[str, Seconds]) -> Row:
    bare, watched = seconds["nothing"], seconds[name]
    interval = run.config.training.eval_interval
    window = interval * statistics.median(bare.steps)
    in_step = statistics.median(paired_ratios(watched.steps, bare.steps)) - 1
    at_checkpoint = (statistics.mean(watched.beats) - statistics.mean(bare.beats)) / window
    whole = bare.windows(interval)
    limit = "two-mode scores of overloaded experts, in float64" if "aggressive" in name else ""
    note = f"{in_step:+.2%} in the step, {at_checkpoint:+.2%} at checkpoints"
    if run.probe.calls:
        probes = run.probe.seconds / (len(bare.beats) + 1) / window
        note += f", of these {probes:.2%} for trials of suspects"
    return summary_row(
        "overhead",
        name,
        [ratio - 1 for ratio in paired_ratios(watched.windows(interval), whole)],
        whole,
        unit="%",
        value=in_step + at_checkpoint,
        must=MUST,
        aim=AIM,
        note=note,
        limit=limit,
    )


def _evaluation(run: BenchmarkRun, seconds: Mapping[str, Seconds]) -> Row:
    assert run.evaluation is not None
    # By the window, like the rows above: of hundreds of single steps one is always slow.
    bare = seconds["nothing"].windows(run.config.training.eval_interval)
    each = (run.evaluation.seconds - run.probe.seconds) / run.evaluation.calls
    return summary_row(
        "overhead",
        f"lifecycle evaluation, {run.config.model.num_experts} experts",
        [each / window for window in bare],
        bare,
        unit="%",
        must=EVALUATION_MUST,
        note=f"{each * 1e3:.1f} ms a checkpoint, trials of suspects left out",
        limit="half of it copies and compares all expert weights, at the speed of memory; "
        "the rest is Python by layer",
    )


def _save(
    runs: Mapping[str, BenchmarkRun], saved: Mapping[str, float], seconds: Mapping[str, Seconds]
) -> Row:
    training = runs[OBSERVING].config.training
    interval = training.checkpoint_interval
    more = saved[OBSERVING] - saved["nothing"]
    bare = seconds["nothing"].windows(training.eval_interval)
    return summary_row(
        "overhead",
        "saved checkpoint, observing / nothing",
        [more / interval * training.eval_interval / window for window in bare],
        bare,
        unit="%",
        note=f"{more * 1e3:.0f} ms more every {interval} steps",
    )
