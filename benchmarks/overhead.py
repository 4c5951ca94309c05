"""Measure what telemetry and governance add to a training step.

    python benchmarks/overhead.py [--preset tiny] [--rounds N] [--json FILE]

Two runs of the same model take turns in one process on one thread, a window of 20 steps each: one
with nothing watching, one with the recorder in every step and, at the window's end, snapshot,
alerts, controller, lenses and the log lines. The figure is the median over rounds of the ratio of
process CPU time. Exit code 0: within the goal, 1: above it, 2: too noisy to say.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from chronorun.config.compose import compose_run
from chronorun.config.run import RunConfig
from chronorun.data import load_corpus
from chronorun.model import GPT
from chronorun.training.heartbeat import Heartbeat
from chronorun.training.logs import RunLogs
from chronorun.training.optimizer import build_optimizer
from chronorun.training.stepping import Stepper

WINDOW = 20
GOAL = 0.02
NOISE_LIMIT = 1.5


class Contender:
    """A run that can take a window of steps, watched or not."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        corpus = load_corpus(config.data, config.tokenizer)
        device = torch.device("cpu")
        generator = torch.Generator().manual_seed(0)
        model = GPT(config.model, config.router, corpus.vocab_size, generator=generator)
        optimizer = build_optimizer(model, config.optimizer)
        logs = RunLogs(folder)
        self.heartbeat = Heartbeat(config, model, logs, device, corpus.vocab_size)
        self.stepper = Stepper(config, model, optimizer, corpus.split("train"), device)
        self.step = 0

    def window(self) -> float:
        """Take the steps of one window; returns process CPU seconds."""
        recorder = self.heartbeat.recorder
        began = time.process_time()
        for _ in range(WINDOW):
            watch = recorder.begin_step if recorder else (lambda tokens: None)
            result = self.stepper.take(self.step, watch)
            self.step += 1
            if recorder:
                recorder.end_step(self.step, result.loss)
        self.heartbeat.beat(self.step, result.loss.item(), 0.0)
        return time.process_time() - began


def measure(preset: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each window, watched and unwatched, taken in turns."""
    common = ["data=synthetic", f"model={preset}", "run_id=overhead"]
    with tempfile.TemporaryDirectory() as folder:
        on = Contender(compose_run(common)[0], Path(folder) / "on")
        off_config = compose_run([*common, "telemetry=off", "governance=off"])[0]
        off = Contender(off_config, Path(folder) / "off")
        on.window(), off.window()
        watched, bare = [], []
        for index in range(rounds):
            # The order alternates, so that a drift of the machine favours neither.
            for who in (on, off) if index % 2 else (off, on):
                (watched if who is on else bare).append(who.window())
    return watched, bare


def main() -> int:
    """Measure, print and say whether the goal holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    watched, bare = measure(arguments.preset, arguments.rounds)
    noise = max(bare) / min(bare)
    ratios = [a / b for a, b in zip(watched, bare, strict=True)]
    overhead = statistics.median(ratios) - 1
    record = {
        "preset": arguments.preset,
        "rounds": arguments.rounds,
        "seconds_per_step": statistics.median(bare) / WINDOW,
        "overhead": overhead,
        "least": min(ratios) - 1,
        "largest": max(ratios) - 1,
        "goal": GOAL,
        "baseline_max_over_min": noise,
        "load": os.getloadavg()[0],
        "machine": platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(
        f"{arguments.preset}: {record['seconds_per_step'] * 1000:.1f} ms a step; telemetry and "
        f"governance add {overhead:+.2%} ({min(ratios) - 1:+.2%} to {max(ratios) - 1:+.2%}, "
        f"{arguments.rounds} rounds); goal <= {GOAL:.0%}; load {record['load']:.1f}, "
        f"torch {torch.__version__}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if noise > NOISE_LIMIT:
        print(f"too noisy: the baseline's windows differ by {noise:.2f} times", file=sys.stderr)
        return 2
    return 0 if overhead <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
