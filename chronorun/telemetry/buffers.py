"""One layer's sums while a window fills: counts on the device, shapes on the host.

Rows and histograms are added to in place and nothing here waits for the device. How many
assignments a step asked for is read off the shape of its choices: a schedule may change a layer's
top-k and capacity between two steps of a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chronorun.core.processes import ALONE, Processes
from chronorun.core.state import from_plain
from chronorun.errors import StorageError
from chronorun.model.shapes import Routing
from chronorun.telemetry.windows import LayerWindow

REFERENCE_CAPACITY_FACTOR = 1.25

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class LayerBuffers:
    """Counts per step, histograms and float sums of one layer; S steps, E experts.

    Of several processes each holds what it saw itself, and the recorder sums it up; how much was
    asked for is the same in all, and counted for all.
    """

    def __init__(
        self,
        num_experts: int,
        window_steps: int,
        types: int,
        positions: int,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.num_experts, self.types, self.positions = num_experts, types, positions
        size = num_experts * (types + positions + num_experts)
        rows = (window_steps, num_experts)
        self.counts_SE = torch.zeros(rows, dtype=torch.int64, device=device)
        self.dropped_SE = torch.zeros(rows, dtype=torch.int64, device=device)
        self.histogram = torch.zeros(size, dtype=torch.int64, device=device)
        # E sums of probabilities, then the sum of per-token entropies.
        self.sums = torch.zeros(num_experts + 1, dtype=torch.float64, device=device)
        self.assignments = [0] * window_steps
        self.capped = [False] * window_steps

    def add(self, row: int, routing: Routing, type_T: Tensor, position_T: Tensor) -> None:
        """Add one forward pass to a step's row."""
        index_KT, kept_KT = routing.expert_index_KT, routing.kept_KT
        self.counts_SE[row] += routing.tokens_per_expert_E
        self.assignments[row] += index_KT.numel() * self.processes.world
        if kept_KT is not None:
            self.capped[row] = True
            lost_N = kept_KT.logical_not().flatten().long()
            self.dropped_SE[row].scatter_add_(0, index_KT.flatten(), lost_N)
        self._add_to_histograms(index_KT, kept_KT, type_T, position_T)
        probs_TE = routing.probs_TE
        entropy = -torch.xlogy(probs_TE, probs_TE).sum()
        self.sums += torch.cat([probs_TE.sum(0), entropy[None]]).double()

    def _add_to_histograms(
        self, index_KT: Tensor, kept_KT: Tensor | None, type_T: Tensor, position_T: Tensor
    ) -> None:
        E = self.num_experts
        keys = [
            (index_KT * self.types + type_T).flatten(),
            (index_KT * self.positions + position_T).flatten() + E * self.types,
        ]
        weights = None if kept_KT is None else [kept_KT.flatten(), kept_KT.flatten()]
        for first in range(index_KT.shape[0]):
            for second in range(first + 1, index_KT.shape[0]):
                pair_T = index_KT[first] * E + index_KT[second]
                keys.append(pair_T + E * (self.types + self.positions))
                if kept_KT is not None and weights is not None:
                    weights.append(kept_KT[first] & kept_KT[second])
        flat = torch.cat(keys)
        ones = torch.ones_like(flat) if weights is None else torch.cat(weights).long()
        self.histogram.scatter_add_(0, flat, ones)

    def integers(self) -> list[Tensor]:
        """Return what ``window`` wants back as ``ints``, flattened."""
        return [self.counts_SE.flatten(), self.dropped_SE.flatten(), self.histogram]

    def window(
        self, layer_id: int, top_k: int, tokens: list[int], ints: Ints, sums: Floats
    ) -> LayerWindow:
        """Derive the layer's figures from the copies on the host; one entry of tokens per step.

        ``top_k`` is reported where no step asked for anything.
        """
        E, steps, cells = self.num_experts, len(tokens), self.counts_SE.numel()
        counts, dropped = (
            ints[i * cells : (i + 1) * cells].reshape(-1, E)[:steps].copy() for i in range(2)
        )
        types, places, pairs = np.split(
            ints[2 * cells :], [E * self.types, E * (self.types + self.positions)]
        )
        upper = pairs.reshape(E, E)
        asked = np.asarray(self.assignments[:steps], dtype=np.int64)
        capped = np.asarray(self.capped[:steps], dtype=bool)
        overflow = _mean_over_steps(_beyond(counts, dropped, asked, capped), asked)
        lost = (asked - counts.sum(axis=1))[:, None]
        total = sum(tokens)
        return LayerWindow(
            layer_id=layer_id,
            top_k=max(
                (a // t for a, t in zip(asked.tolist(), tokens, strict=True) if a), default=top_k
            ),
            counts=counts,
            assignments=asked,
            prob_sums=sums[:-1].copy(),
            token_entropy_nats=float(sums[-1]) / total if total else 0.0,
            overflow_fraction=float(overflow.sum()),
            overflow_by_expert=overflow,
            dropped_fraction=float(_mean_over_steps(lost, asked).sum()),
            token_types=types.reshape(E, -1).copy(),
            positions=places.reshape(E, -1).copy(),
            co_selection=upper + upper.T + np.diag(counts.sum(axis=0)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the layer's part of a partly filled window, of all processes."""
        sums = {
            name: self.processes.sum(tensor) for name, tensor in sorted(self._tensors().items())
        }
        tensors = {name: tensor.clone() for name, tensor in sums.items()}
        return tensors | {"assignments": list(self.assignments), "capped": list(self.capped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it. Raises StorageError for a window or buckets of another size.

        Of several processes the first holds what all had seen, however many they were.
        """
        for name, tensor in self._tensors().items():
            restore(tensor, state[name], name)
            if not self.processes.is_first:
                tensor.zero_()
        self.assignments = from_plain(list[int], state["assignments"])
        self.capped = from_plain(list[bool], state["capped"])

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "counts": self.counts_SE,
            "dropped": self.dropped_SE,
            "histogram": self.histogram,
            "sums": self.sums,
        }


def restore(tensor: Tensor, saved: Tensor, name: str) -> None:
    """Copy a saved tensor of the window in place. Raises StorageError for another shape."""
    if saved.shape != tensor.shape:
        raise StorageError(
            f"checkpoint: telemetry window {name}={list(saved.shape)}, expected "
            f"{list(tensor.shape)}; resume with the telemetry and training.eval_interval it had"
        )
    tensor.copy_(saved)


def _beyond(
    counts_SE: Ints, dropped_SE: Ints, asked_S: Ints, capped_S: NDArray[np.bool_]
) -> Floats:
    # Where nothing can be dropped, a capacity of the reference factor says what would have been.
    fair_S = REFERENCE_CAPACITY_FACTOR * asked_S / counts_SE.shape[1]
    over_SE = np.maximum(counts_SE - fair_S[:, None], 0.0)
    return np.where(capped_S[:, None], dropped_SE, over_SE)


def _mean_over_steps(part_SE: NDArray[Any], asked_S: Ints) -> Floats:
    share_SE = part_SE / np.maximum(asked_S, 1)[:, None]
    return share_SE.mean(axis=0) if len(share_SE) else np.zeros(part_SE.shape[1])
