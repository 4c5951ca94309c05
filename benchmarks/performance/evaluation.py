"""A lifecycle evaluation by size of the registry: synthetic windows, the run's own code path.

The coordinator gets what it gets in a run: a snapshot, a window with histograms, contributions of
the experts, weights that have moved, and log files to write to. The weights are narrow (an expert
of 128 numbers), because looking at them grows with the model, not with the registry; what it costs
in a real model is part of ``overhead``.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.lifecycle import LifecycleCoordinator
from chronorun.lifecycle.record.logs import LifecycleLogs
from chronorun.model.shapes import Routing
from chronorun.telemetry import AlertHistory, SystemSnapshot
from chronorun.telemetry.windows import LayerWindow, WindowStats
from performance.rows import Row, summary_row
from performance.timing import cpu_seconds, growth_exponent, spread

WIDTH, STEPS, TOKENS, TYPES, PLACES = 8, 20, 2048, 256, 16
LAYERS, EXPERTS = (4, 16, 64), (8, 64, 256)
MUST_S, AIM_S = 1.0, 0.2
NEAR_LINEAR = 1.2


class Layer:
    """A layer of narrow experts, as the population protocol wants it."""

    top_k = 2

    def __init__(self, num_experts: int, generator: torch.Generator) -> None:
        def draw(*shape: int) -> Tensor:
            return torch.randn(num_experts, *shape, generator=generator)

        self.tensors = {
            "router.weight": draw(WIDTH),
            "router.logit_offset": torch.zeros(num_experts),
            "experts.w1": draw(WIDTH, WIDTH),
            "experts.w2": draw(WIDTH, WIDTH),
        }

    @property
    def num_experts(self) -> int:
        """Live experts."""
        return self.tensors["router.weight"].shape[0]

    def slot_tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return dict(self.tensors)

    def set_slot_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace them."""
        self.tensors.update(tensors)


class Model:
    """As many layers."""

    def __init__(self, layers: int, experts: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.layers = [Layer(experts, generator) for _ in range(layers)]

    def moe_layers(self) -> list[Layer]:
        """Return the layers in order."""
        return self.layers


class Recorder:
    """Hands out one window again and again, as the routing recorder would its newest."""

    sequences = 0

    def __init__(self, window: WindowStats) -> None:
        self.window = window

    def last_layers(self) -> dict[int, LayerWindow]:
        """Return the layers of the window by id."""
        return {layer.layer_id: layer for layer in self.window.layers}

    def tokens_per_step(self) -> float:
        """Return the tokens of a step."""
        return float(TOKENS)

    def token_types_T(self) -> Tensor:
        """Return the token types of the newest forward."""
        return torch.zeros(TOKENS, dtype=torch.int64)

    def set_population(self, n_experts_per_layer: list[int]) -> None:
        """Ignore it: nothing changes here."""


def layer_window(layer_id: int, experts: int, seed: int) -> LayerWindow:
    """Return the window of a healthy layer: uneven shares, types as frequent as words."""
    rng = np.random.default_rng(seed)
    tokens = STEPS * TOKENS
    first = np.minimum(rng.integers(0, experts, tokens), rng.integers(0, experts, tokens))
    second = (first + rng.integers(1, experts, tokens)) % experts
    pairs = np.bincount(first * experts + second, minlength=experts**2).reshape(experts, experts)
    both, types = np.concatenate([first, second]), rng.zipf(1.3, tokens) % TYPES
    places = rng.integers(0, PLACES, tokens)
    by_type, by_place = (
        np.bincount(both * n + np.tile(x, 2), minlength=experts * n).reshape(experts, n)
        for x, n in ((types, TYPES), (places, PLACES))
    )
    counts = np.bincount(both, minlength=experts)
    return LayerWindow(
        layer_id=layer_id,
        top_k=2,
        counts=np.tile(counts // STEPS, (STEPS, 1)),
        assignments=np.full(STEPS, 2 * TOKENS),
        prob_sums=counts / 2.0,
        token_entropy_nats=0.7 * float(np.log(experts)),
        overflow_fraction=0.01,
        overflow_by_expert=np.full(experts, 0.01 / experts),
        dropped_fraction=0.0,
        token_types=by_type,
        positions=by_place,
        co_selection=pairs + pairs.T + np.diag(counts),
    )


class Population:
    """A coordinator over that many layers and experts, and all that a checkpoint hands it."""

    def __init__(self, layers: int, experts: int, folder: Path) -> None:
        windows = [layer_window(i, experts, seed=i) for i in range(layers)]
        tokens = [TOKENS] * STEPS
        self.window = WindowStats(list(range(STEPS)), [1.0] * STEPS, tokens, windows)
        self.model, self.step = Model(layers, experts), 0
        self.coordinator = LifecycleCoordinator(
            None,
            self.model,
            LifecycleConfig(dry_run=True, lifecycle_eval_interval=1),
            recorder=Recorder(self.window),  # type: ignore[arg-type]
            logs=LifecycleLogs.in_folder(folder),
            warmup_steps=0,
        )

    def checkpoint(self) -> float:
        """Let a window pass and return the CPU seconds of its evaluation."""
        self.step += STEPS
        self._train()
        registry = self.coordinator.registry
        snapshot = SystemSnapshot.from_window(
            self.window,
            self.step,
            1.0,
            1.0,
            "benchmark",
            "synthetic",
            AlertHistory(),
            expert_ids=[registry.slots(layer_id) for layer_id in registry.layers()],
        )
        # A full collection of Python falls into one evaluation of many, and doubles a small one.
        gc.collect()
        return cpu_seconds(lambda: self.coordinator.evaluate(snapshot, []))

    def grow_old(self) -> None:
        """Fill every expert's history, as after fifty checkpoints."""
        for record in self.coordinator.registry.records.values():
            entry = record.basin.entries[-1]
            grown = [replace(entry, weight_delta=0.1 + 0.01 * i) for i in range(3)]
            for i in range(record.basin.window_size):
                record.basin.append(grown[i % len(grown)])

    def _train(self) -> None:
        for layer_id, layer in enumerate(self.model.layers):
            layer.tensors["experts.w1"].mul_(1.001)
            gate_KT = torch.full((2, TOKENS), 0.5, requires_grad=True)
            index_KT = torch.arange(2 * TOKENS).view(2, TOKENS) % layer.num_experts
            probs_TE = torch.full((TOKENS, layer.num_experts), 1.0 / layer.num_experts)
            counts_E = torch.bincount(index_KT.flatten(), minlength=layer.num_experts)
            x_TD = torch.zeros(TOKENS, WIDTH)
            routing = Routing(x_TD, probs_TE, probs_TE, index_KT, gate_KT, None, counts_E)
            self.coordinator.observe_gates(layer_id, routing)
            self.coordinator.observe(layer_id, routing.detach())
            torch.autograd.backward((gate_KT * gate_KT).mean() * 1e-3)
        self.coordinator.tap.end_step()


def measure(quick: bool) -> list[Row]:
    """Return seconds by size, and the exponents of their growth."""
    sizes = [(n, e) for n in LAYERS for e in EXPERTS if not quick or n * e <= 1024]
    seconds = {size: evaluate(*size, rounds=3 if quick else 7) for size in sizes}
    rows = [_row(size, taken) for size, taken in seconds.items()]
    return [*rows, *_growth(seconds, quick)]


def evaluate(layers: int, experts: int, rounds: int) -> list[float]:
    """Return the CPU seconds of each evaluation after the first."""
    with tempfile.TemporaryDirectory() as folder:
        population = Population(layers, experts, Path(folder))
        population.checkpoint()
        population.grow_old()
        return [population.checkpoint() for _ in range(rounds)]


def _row(size: tuple[int, int], seconds: list[float]) -> Row:
    layers, experts = size
    largest = (layers, experts) == (LAYERS[-1], EXPERTS[-1])
    return summary_row(
        "evaluation",
        f"{layers} layers of {experts} experts",
        seconds,
        seconds,
        unit="s",
        must=MUST_S if largest else None,
        aim=AIM_S if largest else None,
        note=f"{statistics.median(seconds) / (layers * experts) * 1e6:.0f} us an expert",
        limit="every expert's histograms are logged: 4.5 million numbers in 28 MB of JSON",
    )


def _growth(seconds: Mapping[tuple[int, int], Sequence[float]], quick: bool) -> list[Row]:
    experts, layers = (8, 4) if quick else (EXPERTS[-1], LAYERS[-1])
    along = {
        f"growth with layers, {experts} experts": {
            n: s for (n, e), s in seconds.items() if e == experts
        },
        f"growth with experts, {layers} layers": {
            e: s for (n, e), s in seconds.items() if n == layers
        },
    }
    return [_exponent(name, points) for name, points in along.items()]


def _exponent(name: str, points: Mapping[int, Sequence[float]]) -> Row:
    noisiest = max(points.values(), key=spread)
    middle = [statistics.median(each) for each in points.values()]
    exponent = growth_exponent(list(points), middle)
    return summary_row(
        "evaluation",
        name,
        [exponent],
        noisiest,
        unit="exponent",
        must=NEAR_LINEAR,
        note="1 is linear",
    )
