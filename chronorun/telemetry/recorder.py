"""Accumulates routing statistics on the device; they come to the host once per window.

No call inside a step waits for the device: rows and histograms are added to in place, everything
that can be derived from the counts is derived at ``flush``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chronorun.config.observing import TelemetryConfig
from chronorun.errors import StorageError
from chronorun.model.shapes import Routing
from chronorun.telemetry.windows import LayerWindow, WindowStats

_HASH = 2_654_435_761  # Knuth's multiplicative hash of 32-bit integers
REFERENCE_CAPACITY_FACTOR = 1.25


class _LayerBuffers:
    """Device buffers of one layer: counts per step, histograms, float sums."""

    def __init__(
        self, num_experts: int, window_steps: int, types: int, positions: int, device: torch.device
    ) -> None:
        self.num_experts, self.types, self.positions = num_experts, types, positions
        size = num_experts * (types + positions + num_experts)
        self.counts_SE = torch.zeros(window_steps, num_experts, dtype=torch.int64, device=device)
        self.histogram = torch.zeros(size, dtype=torch.int64, device=device)
        # E sums of probabilities, then the sum of per-token entropies.
        self.sums = torch.zeros(num_experts + 1, dtype=torch.float64, device=device)
        self.capped = False

    def add(self, row: int, routing: Routing, type_T: Tensor, position_T: Tensor) -> None:
        E, index_KT = self.num_experts, routing.expert_index_KT
        self.counts_SE[row] += routing.tokens_per_expert_E
        keys = [
            (index_KT * self.types + type_T).flatten(),
            (index_KT * self.positions + position_T).flatten() + E * self.types,
        ]
        kept = routing.kept_KT
        self.capped |= kept is not None
        weights = None if kept is None else [kept.flatten(), kept.flatten()]
        for first in range(index_KT.shape[0]):
            for second in range(first + 1, index_KT.shape[0]):
                pair_T = index_KT[first] * E + index_KT[second]
                keys.append(pair_T + E * (self.types + self.positions))
                if kept is not None and weights is not None:
                    weights.append(kept[first] & kept[second])
        flat = torch.cat(keys)
        ones = torch.ones_like(flat) if weights is None else torch.cat(weights).long()
        self.histogram.scatter_add_(0, flat, ones)
        probs_TE = routing.probs_TE
        entropy = -torch.xlogy(probs_TE, probs_TE).sum()
        self.sums += torch.cat([probs_TE.sum(0), entropy[None]]).double()

    def tensors(self) -> dict[str, Tensor]:
        return {"counts": self.counts_SE, "histogram": self.histogram, "sums": self.sums}


class RoutingRecorder:
    """Observer of all MoE layers over one window of training steps.

    Call ``begin_step`` with the tokens of each forward pass, let the layers call ``observe``, close
    the step with ``end_step`` (several forwards before it add into one row), and ``flush`` at the
    evaluation checkpoint.
    """

    def __init__(
        self,
        n_experts_per_layer: Sequence[int],
        top_k: int,
        window_steps: int,
        device: torch.device | str,
        config: TelemetryConfig,
        vocab_size: int,
    ) -> None:
        self.top_k = top_k
        self.window_steps = window_steps
        self.device = torch.device(device)
        self.config = config
        self.vocab_size = vocab_size
        self._type_T = self._position_T = torch.zeros(0, dtype=torch.int64)
        self.set_population(n_experts_per_layer)

    def set_population(self, n_experts_per_layer: Sequence[int]) -> None:
        """Start an empty window for this number of experts in each layer."""
        c = self.config
        self._layers = [
            _LayerBuffers(n, self.window_steps, c.token_types, c.position_buckets, self.device)
            for n in n_experts_per_layer
        ]
        self._losses = torch.zeros(self.window_steps, dtype=torch.float64, device=self.device)
        self._steps: list[int] = []
        self._tokens: list[int] = []
        self._open_tokens = 0

    def begin_step(self, tokens_BS: Tensor) -> None:
        """Note the tokens of the coming forward pass, [B, S]."""
        B, S = tokens_BS.shape
        types, buckets = self.config.token_types, self.config.position_buckets
        flat = tokens_BS.flatten()
        if self.vocab_size <= types:
            self._type_T = flat
        else:
            self._type_T = (flat * _HASH % 2**32) * types // 2**32
        position = torch.arange(S, device=tokens_BS.device) * buckets // S
        self._position_T = position.repeat(B)
        self._open_tokens += B * S

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
        ints = torch.cat([t.flatten() for x in self._layers for t in (x.counts_SE, x.histogram)])
        floats = torch.cat([self._losses, *[x.sums for x in self._layers]])
        host_ints, host_floats = ints.cpu().numpy(), floats.cpu().numpy()
        layers, i, f = [], 0, self.window_steps
        for layer_id, buffers in enumerate(self._layers):
            n = buffers.counts_SE.numel()
            m = buffers.histogram.numel()
            s = buffers.sums.numel()
            counts = host_ints[i : i + n].reshape(self.window_steps, -1)[: len(steps)]
            layers.append(
                self._layer_window(
                    layer_id, counts, host_ints[i + n : i + n + m], host_floats[f : f + s], tokens
                )
            )
            i, f = i + n + m, f + s
        losses = [float(x) for x in host_floats[: len(steps)]]
        self.set_population([x.num_experts for x in self._layers])
        return WindowStats(steps, losses, tokens, layers)

    def _layer_window(
        self,
        layer_id: int,
        counts: NDArray[np.int64],
        histogram: NDArray[np.int64],
        sums: NDArray[np.float64],
        tokens: list[int],
    ) -> LayerWindow:
        E, c = counts.shape[1], self.config
        types, places, pairs = np.split(
            histogram, [E * c.token_types, E * (c.token_types + c.position_buckets)]
        )
        upper = pairs.reshape(E, E)
        per_step = counts.sum(axis=0)
        co_selection = upper + upper.T + np.diag(per_step)
        total = sum(tokens)
        asked = np.asarray(tokens, dtype=np.float64) * self.top_k
        dropped = asked - counts.sum(axis=1)
        fair = REFERENCE_CAPACITY_FACTOR * asked / E
        over = np.maximum(counts - fair[:, None], 0.0).sum(axis=1)
        capped = self._layers[layer_id].capped
        return LayerWindow(
            layer_id=layer_id,
            top_k=self.top_k,
            counts=counts.copy(),
            prob_sums=sums[:-1].copy(),
            token_entropy_nats=float(sums[-1]) / total if total else 0.0,
            overflow_fraction=_mean_ratio(dropped if capped else over, asked),
            dropped_fraction=_mean_ratio(dropped, asked),
            token_types=types.reshape(E, -1).copy(),
            positions=places.reshape(E, -1).copy(),
            co_selection=co_selection,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the partly filled window, tensors included."""
        return {
            "steps": list(self._steps),
            "tokens": list(self._tokens),
            "losses": self._losses.clone(),
            "capped": [x.capped for x in self._layers],
            "layers": [
                {name: tensor.clone() for name, tensor in x.tensors().items()} for x in self._layers
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a partly filled window, the population included.

        Raises StorageError when it was recorded with a window or buckets of another size.
        """
        self.set_population([saved["counts"].shape[1] for saved in state["layers"]])
        self._steps, self._tokens = list(state["steps"]), list(state["tokens"])
        _restore(self._losses, state["losses"], "losses")
        layers = zip(self._layers, state["layers"], state["capped"], strict=True)
        for buffers, saved, capped in layers:
            buffers.capped = capped
            for name, tensor in buffers.tensors().items():
                _restore(tensor, saved[name], name)


def _restore(tensor: Tensor, saved: Tensor, name: str) -> None:
    if saved.shape != tensor.shape:
        raise StorageError(
            f"checkpoint: telemetry window {name}={list(saved.shape)}, expected "
            f"{list(tensor.shape)}; resume with the telemetry and training.eval_interval it had"
        )
    tensor.copy_(saved)


def _mean_ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    return float((part / np.maximum(whole, 1.0)).mean()) if len(whole) else 0.0
