"""One GPU, bf16: tokens/s against dense at ``model=large``, MFU, and no host sync in a step.

Not measured where there is no CUDA device; a test takes the same path on the CPU.
``set_sync_debug_mode("error")`` makes any operation that waits for the device raise, so a step that
returns has none: the step of a run that telemetry, governance and the lifecycle watch.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from chronorun.config.model import ModelConfig
from performance.models import build, check_equal_flops, preset_config, random_tokens, step_of
from performance.rows import NOT_MEASURED, Row, ratio_row
from performance.runs import BenchmarkRun
from performance.timing import Step, turned

EXPERTS, BATCH, STEPS_A_ROUND = (8, 32, 64), 16, 10
MUST, AIM = 0.75, 0.9
PEAK_BF16_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense, vendor's data sheets


def measure(quick: bool) -> list[Row]:
    """Return tokens/s over dense by number of experts, MFU, and whether a step waits."""
    if not torch.cuda.is_available():
        names = [f"tokens/s over dense, large, {n} experts" for n in EXPERTS]
        names += ["MFU, large", "host syncs in a step"]
        why = f"{NOT_MEASURED}: no CUDA device"
        return [Row("gpu", name, "x", None, status=why) for name in names]
    device, rounds = Cuda(), 3 if quick else 9
    rows = []
    for n in EXPERTS:
        config = preset_config("large", num_experts=n)
        watched = ["model=large", f"model.num_experts={n}", "lifecycle=dry_run"]
        rows += compare(f"large, {n} experts", config, watched, device, rounds)
    return rows


class Device(Protocol):
    """What is measured on: its name as PyTorch and as its vendor has it, its clock, its syncs."""

    kind: str
    name: str

    def seconds(self, step: Step, times: int) -> float:
        """Return the seconds of a step, of so many."""
        ...

    def waits(self, step: Step) -> bool:
        """Whether something in a step waits for the device."""
        ...


class Cuda:
    """The current CUDA device."""

    kind = "cuda"

    def __init__(self) -> None:
        self.name = torch.cuda.get_device_name()

    def seconds(self, step: Step, times: int) -> float:
        """Return the seconds of a step, of so many between two events on the device."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / times

    def waits(self, step: Step) -> bool:
        """Whether something in a step waits for the device."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return False


def compare(
    name: str, config: ModelConfig, watched: list[str], device: Device, rounds: int
) -> list[Row]:
    """Return tokens/s over dense and MFU of a model, and whether a step of a watched run waits."""
    active = check_equal_flops(config)
    steps = {
        kind: step_of(build(kind, config).to(device.kind), config, BATCH, bf16=True)
        for kind in ("ours", "dense")
    }
    seconds = _interleave(steps, device, rounds)
    tokens = random_tokens(config, BATCH)[:, 1:].numel()
    rate = tokens / statistics.median(seconds["ours"])
    return [
        ratio_row(
            "gpu",
            f"tokens/s over dense, {name}",
            seconds["dense"],
            seconds["ours"],
            must=MUST,
            aim=AIM,
            at_least=True,
            note=f"{rate:,.0f} tokens/s, {device.name}",
        ),
        _mfu(name, device, rate, active, config.n_layers * config.context_length * config.d_model),
        _syncs(name, watched, device),
    ]


def _mfu(name: str, device: Device, tokens_per_second: float, active: int, attention: int) -> Row:
    """Return the part of the peak: 6 FLOPs a weight met, 6 L S D a token for causal attention."""
    peak = next((x for key, x in PEAK_BF16_FLOPS.items() if key in device.name), None)
    if peak is None:
        why = f"{NOT_MEASURED}: peak of {device.name} unknown"
        return Row("gpu", f"MFU, {name}", "%", None, status=why)
    flops = 6.0 * active + 6.0 * attention
    return Row("gpu", f"MFU, {name}", "%", tokens_per_second * flops / peak)


def _interleave(steps: Mapping[str, Step], device: Device, rounds: int) -> dict[str, list[float]]:
    """Return seconds a step by round."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in turned(names, turn):
            taken = device.seconds(steps[name], STEPS_A_ROUND)
            # The first turn warms up: cuBLAS, the allocator.
            if turn:
                seconds[name].append(taken)
    return seconds


def _syncs(name: str, watched: list[str], device: Device) -> Row:
    """Return 0 where the step of a watched run waits for nothing, 1 where something in it waits."""
    with tempfile.TemporaryDirectory() as folder:
        run = BenchmarkRun([*watched, f"training.batch_size={BATCH}"], Path(folder), device.kind)
        # The first steps make what later ones reuse.
        for _ in range(3):
            run.take()
        waits = device.waits(run.take)
    return Row("gpu", f"host syncs in a step, {name}", "x", float(waits), must=0.0)
