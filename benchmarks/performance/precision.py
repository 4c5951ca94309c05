"""bf16 on the CPU: how much faster a step is, and what becomes of the loss.

The loss is the validation loss of equal runs (seed, batches, initial weights) that differ in
``training.precision`` alone. Parity: the difference stays within what another seed makes.
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch

from chronorun.data import fixed_batches
from chronorun.training.evaluate import evaluate
from chronorun.training.stepping import autocast
from performance.models import BATCH, build, preset_config, step_of
from performance.rows import Row, ratio_row
from performance.runs import BenchmarkRun
from performance.timing import interleave

OFF = ["telemetry=off", "governance=off", "model=nano"]


def measure(quick: bool) -> list[Row]:
    """Return bf16 / fp32 of a step, and the validation losses of both by seed."""
    presets = ("small",) if quick else ("small", "medium")
    rows = [_speed(preset, 3 if quick else 9) for preset in presets]
    seeds, steps = ((0,), 60) if quick else ((0, 1, 2), 300)
    return [*rows, *_parity({seed: _losses(seed, steps) for seed in seeds}, steps)]


def _speed(preset: str, rounds: int) -> Row:
    config, batch = preset_config(preset), BATCH[preset]
    steps = {
        name: step_of(build("ours", config), config, batch, bf16=name == "bf16")
        for name in ("bf16", "fp32")
    }
    seconds = interleave(steps, rounds)
    return ratio_row("bf16", f"step, bf16 / fp32, {preset}", seconds["bf16"], seconds["fp32"])


def _losses(seed: int, steps: int) -> dict[str, float]:
    return {name: validation_loss(name, seed, steps) for name in ("fp32", "bf16")}


def validation_loss(precision: str, seed: int, steps: int) -> float:
    """Return the loss of a nano run of so many steps on 32 validation batches, in fp32."""
    overrides = [f"training.precision={precision}", f"seed={seed}", f"training.max_steps={steps}"]
    with tempfile.TemporaryDirectory() as folder:
        run = BenchmarkRun([*OFF, *overrides], Path(folder))
        for _ in range(steps):
            run.take()
    size, context = run.config.training.batch_size, run.config.model.context_length
    batches = fixed_batches(
        run.corpus.split("val"), n=32, batch_size=size, context_length=context, domain=None
    )
    cpu = torch.device("cpu")
    return evaluate(
        run.model, batches, cpu, autocast(cpu, type(run.config.training.precision).fp32)
    )


def _parity(losses: dict[int, dict[str, float]], steps: int) -> list[Row]:
    row = partial(Row, "bf16", unit="nats")
    rows = [
        row(
            f"val loss, bf16 - fp32, seed {seed}",
            value=x["bf16"] - x["fp32"],
            note=f"fp32 {x['fp32']:.4f}, bf16 {x['bf16']:.4f} after {steps} steps of nano",
        )
        for seed, x in losses.items()
    ]
    if len(losses) > 1:
        between = statistics.stdev(x["fp32"] for x in losses.values())
        mean = statistics.mean(x["bf16"] - x["fp32"] for x in losses.values())
        note = f"seeds differ by {between:.4f} (standard deviation, fp32)"
        rows.append(row("val loss, bf16 - fp32, mean", value=mean, note=note))
    return rows
