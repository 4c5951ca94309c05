"""Accumulates routing statistics on the device; they come to the host once per window.

No call inside a step waits for the device: rows and histograms are added to in place, everything
that can be derived from the counts is derived at ``flush``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chronorun.config.observing import TelemetryConfig
from chronorun.core.processes import ALONE, Processes
from chronorun.core.state import from_plain
from chronorun.model.shapes import Routing
from chronorun.telemetry.buffers import LayerBuffers, restore
from chronorun.telemetry.windows import LayerWindow, WindowStats

_HASH = 2_654_435_761  # Knuth's multiplicative hash of 32-bit integers


class RoutingRecorder:
    """Observer of all MoE layers over one window of training steps.

    Call ``begin_step`` with the tokens of each forward pass, let the layers call ``observe``, close
    the step with ``end_step`` (several forwards before it add into one row), and ``flush`` at the
    evaluation. ``top_k`` is reported for a layer that was not observed. Of several ``processes``
    each observes its part of a step; a window sums up all of them, and is the same in each.
    """

    def __init__(
        self,
        n_experts_per_layer: Sequence[int],
        top_k: int,
        window_steps: int,
        device: torch.device | str,
        config: TelemetryConfig,
        vocab_size: int,
        processes: Processes = ALONE,
    ) -> None:
        self.top_k = top_k
        self.processes = processes
        self.sequences = 0
        self.window_steps = window_steps
        self.device = torch.device(device)
        self.config = config
        self.vocab_size = vocab_size
        self._type_T = self._position_T = torch.zeros(0, dtype=torch.int64)
        self._open_tokens = 0
        self.last_window: WindowStats | None = None
        self.set_population(n_experts_per_layer)

    def set_population(self, n_experts_per_layer: Sequence[int]) -> None:
        """Start an empty window for this number of experts in each layer.

        A step that has begun goes on: newborn experts come in between its tokens and its forward.
        """
        c, steps = self.config, self.window_steps
        self._layers = [
            LayerBuffers(n, steps, c.token_types, c.position_buckets, self.device, self.processes)
            for n in n_experts_per_layer
        ]
        self._losses = torch.zeros(self.window_steps, dtype=torch.float64, device=self.device)
        self._steps: list[int] = []
        self._tokens: list[int] = []

    def begin_step(self, tokens_BS: Tensor) -> None:
        """Note the tokens of the coming forward pass, [B, S]."""
        B, S = tokens_BS.shape
        self.sequences = B
        types, buckets = self.config.token_types, self.config.position_buckets
        flat = tokens_BS.flatten()
        if self.vocab_size <= types:
            self._type_T = flat
        else:
            self._type_T = (flat * _HASH % 2**32) * types // 2**32
        position = torch.arange(S, device=tokens_BS.device) * buckets // S
        self._position_T = position.repeat(B)
        self._open_tokens += B * S * self.processes.world

    def observe(self, layer_id: int, routing: Routing) -> None:
        """Add one layer's routing of the current forward pass."""
        self._layers[layer_id].add(len(self._steps), routing, self._type_T, self._position_T)

    def end_step(self, step: int, loss: Tensor | None) -> None:
        """Close the step's row. Raises IndexError beyond ``window_steps`` rows."""
        self._losses[len(self._steps)] = math.nan if loss is None else loss.detach()
        self._steps.append(step)
        self._tokens.append(self._open_tokens)
        self._open_tokens = 0

    def flush(self) -> WindowStats:
        """Copy the window to the host in one go, and start the next one."""
        steps, tokens = self._steps, self._tokens
        parts = [torch.cat(x.integers()) for x in self._layers]
        # One sum over the processes and one copy of all integers, and one of all floats.
        ints = self.processes.sum(torch.cat(parts)).cpu().numpy()
        # Losses are of all processes already. Sums of float32 in float64 round so seldom that
        # their order makes no difference.
        sums = self.processes.sum(torch.cat([x.sums for x in self._layers]))
        floats = torch.cat([self._losses, sums]).cpu().numpy()
        losses = [float(x) for x in floats[: len(steps)]]
        layers, i, f = [], 0, self.window_steps
        for layer_id, (x, part) in enumerate(zip(self._layers, parts, strict=True)):
            n, m = len(part), len(x.sums)
            layers.append(
                x.window(layer_id, self.top_k, tokens, ints[i : i + n], floats[f : f + m])
            )
            i, f = i + n, f + m
        self.set_population(self.population)
        self.last_window = WindowStats(steps, losses, tokens, layers)
        return self.last_window

    @property
    def population(self) -> list[int]:
        """Experts of each layer in the window being filled."""
        return [layer.num_experts for layer in self._layers]

    @property
    def open_steps(self) -> int:
        """Steps in the window being filled."""
        return len(self._steps)

    def last_layers(self) -> dict[int, LayerWindow]:
        """Return the layers of the window flushed last, by id; empty before the first."""
        layers = [] if self.last_window is None else self.last_window.layers
        return {layer.layer_id: layer for layer in layers}

    def tokens_per_step(self) -> float:
        """Return the mean number of tokens of a step in the window flushed last; 0 before."""
        tokens = [] if self.last_window is None else self.last_window.tokens
        return sum(tokens) / len(tokens) if tokens else 0.0

    def token_types_T(self) -> Tensor:
        """Return the token types of the newest forward, flattened; below ``config.token_types``."""
        return self._type_T

    def state_dict(self) -> dict[str, Any]:
        """Return the partly filled window, tensors included."""
        return {
            "steps": list(self._steps),
            "tokens": list(self._tokens),
            "losses": self._losses.clone(),
            "layers": [x.state_dict() for x in self._layers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a partly filled window, the population included.

        Raises StorageError when it was recorded with a window or buckets of another size,
        ValueError when it has tokens of more or fewer steps than it has.
        """
        self.set_population([saved["counts"].shape[1] for saved in state["layers"]])
        self._steps = from_plain(list[int], state["steps"])
        self._tokens = from_plain(list[int], state["tokens"])
        if len(self._steps) != len(self._tokens):
            raise ValueError(
                f"telemetry window has {len(self._steps)} steps and tokens of {len(self._tokens)}, "
                f"expected as many of both"
            )
        restore(self._losses, state["losses"], "losses")
        for buffers, saved in zip(self._layers, state["layers"], strict=True):
            buffers.load_state_dict(saved)
