"""One GPU, bf16: tokens/s against dense at ``model=large``, MFU, and no host sync in a step.

Not measured where there is no CUDA device. ``set_sync_debug_mode("error")`` makes any operation
that waits for the device raise, so a step that returns has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch

from performance.models import build, check_equal_flops, preset_config, random_tokens, step_of
from performance.rows import NOT_MEASURED, Row, ratio_row
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
    return [row for n in EXPERTS for row in _compare(n, 3 if quick else 9)]


def _compare(num_experts: int, rounds: int) -> list[Row]:
    config = preset_config("large", num_experts=num_experts)
    active = check_equal_flops(config)
    steps = {
        kind: step_of(build(kind, config).cuda(), config, BATCH, bf16=True)
        for kind in ("ours", "dense")
    }
    seconds = _interleave(steps, rounds)
    tokens = random_tokens(config, BATCH)[:, 1:].numel()
    rate = tokens / statistics.median(seconds["ours"])
    name = f"large, {num_experts} experts"
    return [
        ratio_row(
            "gpu",
            f"tokens/s over dense, {name}",
            seconds["dense"],
            seconds["ours"],
            must=MUST,
            aim=AIM,
            at_least=True,
            note=f"{rate:,.0f} tokens/s, {torch.cuda.get_device_name()}",
        ),
        _mfu(name, rate, active, config.n_layers * config.context_length * config.d_model),
        Row("gpu", f"host syncs in a step, {name}", "x", _syncs(steps["ours"]), must=0.0),
    ]


def _mfu(name: str, tokens_per_second: float, active: int, attention: int) -> Row:
    """Return the part of the peak: 6 FLOPs a weight met, 6 L S D a token for causal attention."""
    device = torch.cuda.get_device_name()
    peak = next((x for key, x in PEAK_BF16_FLOPS.items() if key in device), None)
    if peak is None:
        why = f"{NOT_MEASURED}: peak of {device} unknown"
        return Row("gpu", f"MFU, {name}", "%", None, status=why)
    flops = 6.0 * active + 6.0 * attention
    return Row("gpu", f"MFU, {name}", "%", tokens_per_second * flops / peak)


def _interleave(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Return seconds a step by round, between events on the device."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in turned(names, turn):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(STEPS_A_ROUND):
                steps[name]()
            end.record()
            end.synchronize()
            # The first turn warms up: cuBLAS, the allocator.
            if turn:
                seconds[name].append(start.elapsed_time(end) / 1e3 / STEPS_A_ROUND)
    return seconds


def _syncs(step: Step) -> float:
    """Return 0 where a step waits for nothing, 1 where something in it waits."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0.0
