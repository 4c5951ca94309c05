"""What the lifecycle keeps of the training forwards: the newest inputs, and sums of gradients.

References to tensors that exist anyway and sums on the device: no host sync.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chronorun.core.processes import ALONE, Processes
from chronorun.core.state import from_plain, to_plain
from chronorun.model.shapes import Routing

FEWEST_ASSIGNMENTS = 32
"""Fewer say nothing of an expert's harm."""
MOST_TOKENS = 4096
"""Tokens of the newest forward that are looked at; more would not make a median better."""


class InputTap:
    """Observer of all layers: their newest routing, and how much each expert's output helps.

    ``contribution`` is the sum over a step's tokens of ``gate * dL/dgate``: the derivative of the
    loss by the log of the expert's output scale. It is near 0 for an expert whose scale is at its
    optimum, and above 0 where the output does harm (first-order importance: Molchanov et al. 2019,
    arXiv:1906.10771, eq. 8, with the sign kept).
    """

    def __init__(
        self,
        n_experts: Sequence[int],
        types_T: Callable[[], Tensor] | None,
        processes: Processes = ALONE,
    ) -> None:
        self._types_T = types_T
        self.processes = processes
        self.n_experts = list(n_experts)
        self.routing: dict[int, Routing] = {}
        self.type_T: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}
        self.steps = 0

    def start_window(self) -> None:
        """Begin to add up contributions anew."""
        self._sums.clear()
        self.steps = 0

    def resize(self, layer_id: int, n_experts: int) -> None:
        """Forget what was seen of a layer before its population changed."""
        self.n_experts[layer_id] = n_experts
        for kept in (self.routing, self.type_T, self._sums):
            kept.pop(layer_id, None)

    def observe(self, layer_id: int, routing: Routing) -> None:
        """Keep one layer's newest routing."""
        self.routing[layer_id] = routing
        if self._types_T is not None:
            self.type_T[layer_id] = self._types_T()

    def observe_gates(self, layer_id: int, routing: Routing) -> None:
        """Arrange for the gradient of the gates to be added up."""
        gate_KT = routing.gate_KT
        if not gate_KT.requires_grad:
            return
        gate, index_N = gate_KT.detach(), routing.expert_index_KT.flatten()

        def add(grad_KT: Tensor) -> None:
            sums = self._sums.get(layer_id)
            if sums is None:
                sums = torch.zeros(2, self.n_experts[layer_id])
            # Sums from a checkpoint are on the CPU.
            sums = self._sums[layer_id] = sums.to(gate.device)
            terms_N = (grad_KT * gate).flatten().float()
            if self.processes.world > 1:
                # Of the loss of all processes, which is the mean of theirs.
                terms_N = terms_N / self.processes.world
            sums.index_add_(1, index_N, torch.stack([terms_N, terms_N.square()]))

        gate_KT.register_hook(add)  # type: ignore[no-untyped-call]

    def gather(self, sequences: int) -> None:
        """Let every process hold what all have seen, in the order of the global batch.

        ``sequences`` is how many of them a process's newest forward had; rank r trains on rows
        r::world of the batch. Call it at an evaluation, before anything is read.
        """
        if self.processes.world == 1:
            return
        for layer_id in sorted(self.routing):
            self.routing[layer_id] = self._joined(self.routing[layer_id], sequences)
        for layer_id in sorted(self.type_T):
            self.type_T[layer_id] = self._in_order(self.type_T[layer_id], sequences)
        self._sums = {i: self.processes.sum(self._sums[i]) for i in sorted(self._sums)}

    def _joined(self, routing: Routing, sequences: int) -> Routing:
        def columns(x_KT: Tensor) -> Tensor:
            return self._in_order(x_KT.t(), sequences).t().contiguous()

        kept_KT = routing.kept_KT
        return Routing(
            self._in_order(routing.x_TD, sequences),
            self._in_order(routing.logits_TE, sequences),
            self._in_order(routing.probs_TE, sequences),
            columns(routing.expert_index_KT),
            columns(routing.gate_KT),
            None if kept_KT is None else columns(kept_KT),
            self.processes.sum(routing.tokens_per_expert_E),
        )

    def _in_order(self, x_T: Tensor, sequences: int) -> Tensor:
        shape = (sequences, -1, *x_T.shape[1:])
        parts = [part.view(shape) for part in self.processes.gather(x_T)]
        return torch.stack(parts, dim=1).flatten(0, 2)

    def end_step(self) -> None:
        """Count a step."""
        self.steps += 1

    def contributions(self, layer_id: int) -> list[float] | None:
        """Return each expert's contribution, the mean over the window's steps (nats)."""
        sums = self._sums.get(layer_id)
        if sums is None or self.steps == 0:
            return None
        return [float(x) / self.steps for x in sums[0].tolist()]

    def token_harms(
        self, layer_id: int, assignments: Sequence[int], tokens_per_step: float
    ) -> list[tuple[float, float] | None] | None:
        """Return (mean, standard error) of the harm per token that each expert serves, in nats.

        ``assignments`` [E] counts what each expert was sent in the window. The contribution of one
        assignment to a loss that is a mean over a step's tokens, times these tokens, is the
        derivative of that token's own loss by the log of the expert's output scale. None for an
        expert of fewer than ``FEWEST_ASSIGNMENTS``.
        """
        sums = self._sums.get(layer_id)
        if sums is None or self.steps == 0:
            return None
        found: list[tuple[float, float] | None] = []
        for total, square, n in zip(*sums.double().tolist(), assignments, strict=True):
            if n < FEWEST_ASSIGNMENTS:
                found.append(None)
                continue
            mean = total * tokens_per_step / n
            variance = max(0.0, square * tokens_per_step**2 / n - mean**2)
            found.append((mean, (variance / n) ** 0.5))
        return found

    def inputs(self, layer_id: int, slots: Sequence[int]) -> Tensor | None:
        """Return the newest inputs [N, D] that were sent to any of these slots."""
        routing = self.routing.get(layer_id)
        if routing is None:
            return None
        index_KT = routing.expert_index_KT[:, :MOST_TOKENS]
        wanted = torch.tensor(list(slots), device=index_KT.device)
        chosen_T = torch.isin(index_KT, wanted).any(dim=0)
        return routing.x_TD[:MOST_TOKENS][chosen_T]

    def tokens(self, layer_id: int, chosen_T: Tensor | None) -> Tensor | None:
        """Return the newest inputs [N, D] of the tokens chosen by a mask."""
        routing = self.routing.get(layer_id)
        return None if routing is None or chosen_T is None else routing.x_TD[chosen_T]

    def centroid(self, layer_id: int) -> Tensor | None:
        """Return the mean of the newest inputs, [D]."""
        routing = self.routing.get(layer_id)
        return None if routing is None else routing.x_TD.mean(0)

    def starved(self, layer_id: int, overflow: Sequence[float] | None) -> Tensor | None:
        """Return the mask [T] of the newest tokens that are served badly.

        With ``overflow`` by slot: those sent to experts beyond their capacity. Without: the quarter
        of the tokens about which the router is least decided.
        """
        routing = self.routing.get(layer_id)
        if routing is None:
            return None
        if overflow is not None:
            slots = [slot for slot, part in enumerate(overflow) if part > 0.0]
            wanted = torch.tensor(slots, dtype=torch.int64, device=routing.x_TD.device)
            return torch.isin(routing.expert_index_KT, wanted).any(dim=0)
        probs_TE = routing.probs_TE
        entropy_T = -torch.xlogy(probs_TE, probs_TE).sum(-1)
        chosen_T = torch.zeros(len(entropy_T), dtype=torch.bool, device=entropy_T.device)
        chosen_T[entropy_T.topk(max(1, len(entropy_T) // 4)).indices] = True
        return chosen_T

    def type_counts(self, layer_id: int, chosen_T: Tensor | None, types: int) -> list[int] | None:
        """Return how often each token type occurs among the tokens chosen by a mask."""
        type_T = self.type_T.get(layer_id)
        if type_T is None or chosen_T is None or len(type_T) != len(chosen_T):
            return None
        return torch.bincount(type_T[chosen_T], minlength=types).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of a partly filled window; the newest inputs come with the next step.

        Of several processes it holds the sums of each, [world, 2, E]: float32 added up in another
        order would not be bit-equal.
        """
        parts = {i: self.processes.gather(self._sums[i]) for i in sorted(self._sums)}
        sums = {i: torch.stack(each).squeeze(0) for i, each in parts.items()}
        return to_plain({"steps": self.steps, "sums": sums})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        The first takes it all where another number of processes saved it.
        """
        self.steps = from_plain(int, state["steps"])
        sums = from_plain(dict[int, Tensor], state["sums"])
        for i, value in sums.items():
            if value.shape[-2:] != (2, self.n_experts[i]):
                raise ValueError(f"sums of layer {i} have shape {list(value.shape)}")
        self._sums = {i: self._own(value) for i, value in sums.items()}

    def _own(self, saved: Tensor) -> Tensor:
        parts = saved.to(torch.float32).view(-1, *saved.shape[-2:])
        if len(parts) == self.processes.world:
            return parts[self.processes.rank].clone()
        return parts.sum(0) * self.processes.is_first
