"""How long commands take to start: user + system seconds of processes of their own, interleaved.

CPU time, not the clock: other work on the machine stretches the clock, whose median stands in the
note. "First step" ends a ``chronorun train`` right after its first optimizer step, the corpus
cached. A step of torch's own AdamW stands beside it: it imports ``torch._dynamo``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from inspect_speed import write_log

from performance.rows import Row, ratio_row, summary_row
from performance.timing import means, turned

TO_FIRST_STEP = """
import os, sys
from chronorun.training.stepping import Stepper
take = Stepper.take
def take_and_end(*arguments):
    take(*arguments)
    os._exit(0)
Stepper.take = take_and_end
from chronorun.cli.main import run_command_line
run_command_line(sys.argv[1:])
os._exit(1)
"""
CHRONORUN = ("-m", "chronorun")
LOG = "lifecycle_decisions.jsonl"
LIGHT = {  # name -> arguments of the interpreter
    "import typer": ("-c", "import typer"),
    "--help": (*CHRONORUN, "--help"),
    "completion": (*CHRONORUN, "_complete", "train", "model="),
    "inspect": (*CHRONORUN, "inspect", LOG),
    "train --cfg job": (*CHRONORUN, "train", "--cfg", "job"),
}
# One thread: threads that wait for each other burn CPU time where cores are shared.
TRAIN = ("-c", TO_FIRST_STEP, "train", "training.threads=1")
ONE_ADAMW = """
import torch
weight = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.AdamW([weight], fused=True)
weight.sum().backward()
optimizer.step()
"""
HEAVY = {
    "import torch": ("-c", "import torch"),
    "one AdamW step of torch": ("-c", ONE_ADAMW),
    "first step": TRAIN,
    "first step, tracking=no_wandb": (*TRAIN, "tracking=no_wandb"),
}
HELP_GOALS = (2.0, 1.3)
FIRST_STEP_GOALS_S = (2.0, 0.5)


class Starts:
    """Seconds of processes, by name of what they run: of the CPU, and by the clock."""

    def __init__(self, commands: Mapping[str, Sequence[str]], folder: Path) -> None:
        self.commands, self.folder = commands, folder
        self.cpu: dict[str, list[float]] = {name: [] for name in commands}
        self.wall: dict[str, list[float]] = {name: [] for name in commands}
        root = str(Path(__file__).resolve().parents[2])
        cache = {"CHRONORUN_CACHE": str(folder / "cache")}
        self.environment = os.environ | cache | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}

    def take(self, rounds: int, turns: int = 1) -> None:
        """Start everything once unmeasured, then in turns; a round is the mean of so many turns."""
        for name in self.commands:
            self.start(name)
        for turn in range(rounds * turns):
            for name in turned(list(self.commands), turn):
                cpu, wall = self.start(name)
                self.cpu[name].append(cpu)
                self.wall[name].append(wall)
        for seconds in (self.cpu, self.wall):
            seconds.update({name: means(each, turns) for name, each in seconds.items()})

    def start(self, name: str) -> tuple[float, float]:
        """Return user + system seconds and seconds by the clock of one process."""
        command = [sys.executable, *self.commands[name]]
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{name}: exit code {process.returncode}"
        return usage.ru_utime + usage.ru_stime, wall


def measure(quick: bool) -> list[Row]:
    """Return light commands over ``import typer``, and the first step beyond ``import torch``."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_log(folder / LOG, 100)
        light, heavy = Starts(LIGHT, folder), Starts(HEAVY, folder)
        # A process of a tenth of a second alone tells of the processor's speed at that instant; a
        # round of several, spread over seconds between the others, tells of the process.
        light.take(3 if quick else 9, turns=5)
        heavy.take(1 if quick else 5)
    return [*_light_rows(light), *_heavy_rows(heavy)]


def _light_rows(starts: Starts) -> list[Row]:
    rows = []
    for name, cpu in starts.cpu.items():
        if name != "import typer":
            must, aim = HELP_GOALS if name == "--help" else (None, None)
            title = f"{name} / import typer"
            note = f"{statistics.median(starts.wall[name]):.2f} s by the clock"
            below = starts.cpu["import typer"]
            rows.append(ratio_row("starting", title, cpu, below, must=must, aim=aim, note=note))
    return rows


def _heavy_rows(starts: Starts) -> list[Row]:
    torch_s, rows = starts.cpu["import torch"], []
    for name, cpu in starts.cpu.items():
        if name == "import torch":
            continue
        must, aim = FIRST_STEP_GOALS_S if name.startswith("first step") else (None, None)
        clock = [statistics.median(starts.wall[x]) for x in (name, "import torch")]
        rows.append(
            summary_row(
                "starting",
                f"{name} - import torch",
                [a - b for a, b in zip(cpu, torch_s, strict=True)],
                torch_s,
                unit="s",
                must=must,
                aim=aim,
                note=f"{clock[0]:.2f} s by the clock, import torch {clock[1]:.2f} s",
            )
        )
    return rows
