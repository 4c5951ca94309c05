"""Time one training step against the dense model of equal active FLOPs and one-hot dispatch.

    python benchmarks/step.py [--preset small|medium|tiny|nano] [--rounds N] [--quick] [--json FILE]

Without ``--preset`` it measures small and medium. A step is forward, backward and fused AdamW. The
contenders take turns in one process on one thread; a figure is the median over rounds of the ratio
within a round, of process CPU time, with the least and the largest. Exit code 0: every "must"
holds, 1: one is missed, 2: refused, because the baseline varied too much from round to round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from reference_onehot import DenseOfEqualFLOPs, OneHotMoE
from torch import Tensor, nn

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.training import OptimizerConfig
from chronorun.model import GPT, MoELayer
from chronorun.training.optimizer import build_optimizer

BATCH = {"nano": 16, "tiny": 16, "small": 16, "medium": 8}
VOCABULARY = 256
NOISE_LIMIT = 1.5
LAYER_64 = "layer of 64 experts / dense"
MUST = {  # preset -> figure -> the largest ratio allowed
    "small": {
        "step / one-hot": 1 / 4,
        "step / dense": 1.15,
        LAYER_64: 1.8,
        "memory / one-hot": 0.5,
    },
    "medium": {"step / one-hot": 1 / 1.6, "step / dense": 1.10, LAYER_64: 1.8},
}
ROOT = Path(__file__).resolve().parents[1]
Step = Callable[[], None]


@dataclass(frozen=True)
class Figure:
    """One ratio: median over rounds, spread, and the largest value allowed (None: no goal)."""

    name: str
    ratio: float
    least: float
    largest: float
    must: float | None

    @property
    def holds(self) -> bool:
        """Whether the ratio is within its goal."""
        return self.must is None or self.ratio <= self.must


def preset_config(preset: str, **changes: int) -> ModelConfig:
    """Read ``conf/model/<preset>.yaml``."""
    fields = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "model" / f"{preset}.yaml"))
    assert isinstance(fields, dict)
    return ModelConfig(**{str(key): value for key, value in fields.items()} | changes)


def build(kind: str, config: ModelConfig) -> GPT:
    """Return the GPT with its MoE layers as they are (ours), or replaced (one-hot, dense)."""
    generator = torch.Generator().manual_seed(0)
    model = GPT(config, RouterConfig(), VOCABULARY, generator=generator)
    replace: dict[str, Callable[[MoELayer], nn.Module]] = {
        "one-hot": OneHotMoE,
        "dense": DenseOfEqualFLOPs,
    }
    for block in model.blocks:
        if kind in replace and isinstance(block.feed_forward, MoELayer):
            block.feed_forward = replace[kind](block.feed_forward)
    return model


def flops_per_token(model: GPT) -> tuple[int, int]:
    """Return (multiply-adds of weights one token meets, of these in routers)."""
    router = sum(layer.router.weight.numel() for layer in model.moe_layers())
    return model.parameter_counts()["active"], router


def check_equal_flops(config: ModelConfig) -> int:
    """Return the active multiply-adds per token; ours and dense differ by the router's only."""
    active, router = flops_per_token(build("ours", config))
    dense, _ = flops_per_token(build("dense", config))
    assert active - router == dense, (active, router, dense)
    return dense


def training_step(kind: str, config: ModelConfig, batch: int) -> Step:
    """Return a function that takes one training step of a fresh model."""
    model = build(kind, config)
    optimizer = build_optimizer(model, OptimizerConfig())
    router = RouterConfig()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (batch, config.context_length + 1), generator=generator)

    def step() -> None:
        out = model(tokens[:, :-1], tokens[:, 1:])
        loss = out.loss + router.load_balancing_coef * out.load_balancing_loss
        torch.autograd.backward(loss + router.z_loss_coef * out.router_z_loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def layer_step(layer: nn.Module, config: ModelConfig, batch: int) -> Step:
    """Return a function that runs one layer forward and backward."""
    shape = (batch, config.context_length, config.d_model)
    x: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def step() -> None:
        out, _ = layer(x)
        torch.autograd.backward(out, x.detach())
        layer.zero_grad(set_to_none=True)
        x.grad = None

    return step


def layer_contenders(config: ModelConfig, batch: int) -> dict[str, Step]:
    """Return one MoE layer of 64 experts and the dense MLP of equal active FLOPs."""
    torch.manual_seed(3)
    layer = MoELayer(0, config, RouterConfig(), 64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.0, 0.02)
    dense = DenseOfEqualFLOPs(layer)
    return {"layer": layer_step(layer, config, batch), "dense": layer_step(dense, config, batch)}


def interleave(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds per round of each contender; the order turns from round to round."""
    for step in steps.values():
        step()
        step()
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            start = time.process_time()
            steps[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def ratio(name: str, above: list[float], below: list[float], must: float | None) -> Figure:
    """Return the median ratio of paired rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return Figure(name, statistics.median(ratios), min(ratios), max(ratios), must)


def spread(seconds: list[float]) -> float:
    """Return the slowest round over the fastest."""
    return max(seconds) / min(seconds)


def memory_status(field: str) -> int:
    """Return a field of this process's memory status in bytes (Linux: VmRSS now, VmHWM at most)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def print_peak_memory(kind: str, preset: str) -> None:
    """Take three steps and print how far the process grew beyond what it was after imports."""
    warm_up = torch.ones(8, 8, requires_grad=True).matmul(torch.ones(8, 8)).sum()
    torch.autograd.backward(warm_up)
    before = memory_status("VmRSS")
    step = training_step(kind, preset_config(preset), BATCH[preset])
    for _ in range(3):
        step()
    print(memory_status("VmHWM") - before)


def peak_memory(kind: str, preset: str) -> float:
    """Return the peak growth of a process of its own, in bytes."""
    command = [sys.executable, __file__, "--preset", preset, "--peak-memory-of", kind]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(preset: str, rounds: int) -> tuple[list[Figure], float]:
    """Measure one preset; returns its figures and the largest spread of a baseline."""
    config, batch = preset_config(preset), BATCH[preset]
    must = MUST.get(preset, {})
    print(
        f"\n{preset}: {config.n_layers} layers, d {config.d_model}, context "
        f"{config.context_length}, batch {batch}, {config.num_experts} experts, "
        f"top-{config.top_k}, an MoE layer every {config.moe_stride} block(s)"
    )
    print(f"  multiply-adds per token, dense = ours less router: {check_equal_flops(config):,}")
    kinds = ("ours", "dense", "one-hot")
    times = interleave({kind: training_step(kind, config, batch) for kind in kinds}, rounds)
    layers = interleave(layer_contenders(config, batch), 3 * rounds)
    for kind in kinds:
        print(f"  {kind:8} {statistics.median(times[kind]) * 1e3:9.1f} ms CPU a step")
    ours, one_hot = peak_memory("ours", preset), peak_memory("one-hot", preset)
    mib = [round(x / 2**20) for x in (ours, one_hot)]
    print(f"  peak memory beyond imports: ours {mib[0]} MiB, one-hot {mib[1]} MiB")
    figures = [
        ratio("step / one-hot", times["ours"], times["one-hot"], must.get("step / one-hot")),
        ratio("step / dense", times["ours"], times["dense"], must.get("step / dense")),
        ratio(LAYER_64, layers["layer"], layers["dense"], must.get(LAYER_64)),
        ratio("memory / one-hot", [ours], [one_hot], must.get("memory / one-hot")),
    ]
    return figures, max(spread(times["dense"]), spread(layers["dense"]))


def print_figures(figures: list[Figure]) -> None:
    """Print one line per ratio."""
    for f in figures:
        goal = "no goal" if f.must is None else f"must <= {f.must:.3f}"
        verdict = "" if f.must is None else ("  holds" if f.holds else "  MISSED")
        print(f"  {f.name:28} {f.ratio:6.3f}  ({f.least:.3f} to {f.largest:.3f})  {goal}{verdict}")


def machine() -> dict[str, object]:
    """Return what a figure depends on: processor, load, versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", choices=list(BATCH), help="default: small, then medium")
    parser.add_argument("--rounds", type=int, help="rounds of each preset (default 9, quick 3)")
    parser.add_argument("--quick", action="store_true", help="few rounds; figures are rough")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--peak-memory-of", metavar="KIND", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure, print, and say by the exit code whether the goals are met."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if arguments.peak_memory_of:
        print_peak_memory(arguments.peak_memory_of, arguments.preset)
        return 0
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    record: dict[str, object] = {"machine": machine(), "rounds": rounds}
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    code = 0
    for preset in [arguments.preset] if arguments.preset else ["small", "medium"]:
        figures, noise = measure(preset, rounds)
        refused = noise > NOISE_LIMIT
        record[preset] = {"baseline_spread": noise, "refused": refused}
        if refused:
            print(f"  too noisy: the dense rounds vary by {noise:.2f}, expected <= {NOISE_LIMIT}")
            code = 2
            continue
        record[preset] = {"baseline_spread": noise, "figures": [asdict(f) for f in figures]}
        print_figures(figures)
        print(f"  baseline, slowest over fastest round: {noise:.2f}")
        code = max(code, int(not all(f.holds for f in figures)))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
