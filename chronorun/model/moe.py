"""The Mixture-of-Experts layer: lens, router, dispatch, experts, combine.

The layer knows nothing of telemetry, governance or lifecycle. It calls an ``observer`` it was
handed, passes the router's input through a ``lens`` it was handed, and offers its per-expert
tensors by name (``slot_tensors``, ``set_slot_tensors``), which is all a population manager needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.model.experts import (
    ExpertBank,
    combine,
    count_assignments,
    dispatch,
    sort_by_expert,
)
from chronorun.model.losses import load_balancing_loss, router_z_loss
from chronorun.model.router import Router
from chronorun.model.shapes import BalanceObserver, Observer, RouterLosses, Routing, Spy
from chronorun.model.twins import Twin, Twins


def keep_within_capacity(
    expert_index_KT: Tensor, order_N: Tensor, inverse_N: Tensor, counts_E: Tensor, capacity: int
) -> Tensor:
    """Return kept_KT, true for the first ``capacity`` assignments of each expert.

    First choices of all tokens go before second choices, earlier tokens before later ones (GShard,
    arXiv:2006.16668, and nanoMoE).
    """
    starts_E = counts_E.cumsum(0) - counts_E
    place_N = inverse_N - starts_E[expert_index_KT.flatten()]
    return (place_N < capacity).view_as(expert_index_KT)


class MoELayer(nn.Module):
    """Sends each token to the ``top_k`` best of the layer's live experts."""

    def __init__(self, layer_id: int, model: ModelConfig, router: RouterConfig, experts: int):
        super().__init__()
        self.layer_id = layer_id
        self.top_k = model.top_k
        self.capacity_factor = router.capacity_factor
        self.eval_capacity_factor = router.eval_capacity_factor
        self.router = Router(model.d_model, experts, router)
        self.experts = ExpertBank(experts, model.d_model, model.ff_width)
        self.twins: Twins | None = None
        # What others may assign, in the order in which a forward calls it.
        # Shifts the router's input.
        self.lens: Callable[[Tensor], Tensor] | None = None
        # Replaces the logits: a scenario that forces routing.
        self.routing_override: Callable[[Tensor], Tensor] | None = None
        # Replaces the experts' outputs: a scenario that corrupts an expert.
        self.output_hook: Callable[[Tensor, Tensor], Tensor] | None = None
        # Counts assignments in a pass ahead of a step; no other hook below is called then.
        self.counter: Callable[[int, Tensor], None] | None = None
        # Gets the routing with its gates still in the graph, in training.
        self.gate_observer: Observer | None = None
        # Gets routing and output of every forward, in evaluation too.
        self.spy: Spy | None = None
        # Returns the whole batch's counts for those of a part: a micro-batch or a process's rows.
        self.sum_counts: Callable[[Tensor], Tensor] | None = None
        # Gets what the balancing loss is made of, in training.
        self.balance_observer: BalanceObserver | None = None
        # Gets the routing after drops, detached, in training.
        self.observer: Observer | None = None

    @property
    def num_experts(self) -> int:
        """Live experts, read off the weights."""
        return self.router.weight.shape[0]

    @property
    def num_groups(self) -> int:
        """What competes for the top-k places: live experts, exclusive twins counted once."""
        return self.num_experts if self.twins is None else self.twins.num_groups

    def set_twins(self, pairs: Sequence[Twin]) -> None:
        """Make these pairs of slots exclusive, and no others."""
        self.twins = Twins(pairs, self.num_experts) if pairs else None

    def route(self, x_TD: Tensor) -> tuple[Routing, Tensor, Tensor]:
        """Choose experts for each token; returns the routing, order_N and inverse_N.

        The routing counts assignments before drops, as the balancing terms and the dispatch need.
        """
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = x_TD.float()
            if self.lens is not None:
                x_TD = self.lens(x_TD)
            logits_TE = self.router.logits(x_TD)
            if self.routing_override is not None:
                logits_TE = self.routing_override(logits_TE)
            if self.twins is not None:
                logits_TE = self.twins.hide_children(logits_TE)
            probs_TE = torch.softmax(logits_TE, dim=-1)
            group_KT, gate_KT = self.router.choose(logits_TE, probs_TE, self.top_k)
            index_KT = group_KT if self.twins is None else self.twins.pick_members(group_KT, x_TD)
        order_N, inverse_N = sort_by_expert(index_KT)
        counts_E = count_assignments(index_KT, self.num_experts)
        kept_KT = None
        factor = self.capacity_factor if self.training else self.eval_capacity_factor
        if factor is not None:
            kept_KT = self._keep(factor, group_KT, order_N, inverse_N, counts_E)
            gate_KT = gate_KT * kept_KT
        routing = Routing(x_TD, logits_TE, probs_TE, index_KT, gate_KT, kept_KT, counts_E)
        return routing, order_N, inverse_N

    def _keep(
        self, factor: float, group_KT: Tensor, order_N: Tensor, inverse_N: Tensor, counts_E: Tensor
    ) -> Tensor:
        capacity = math.ceil(factor * (group_KT.numel() / self.num_groups))
        if self.twins is not None:
            # Twins share one capacity, so that pairing drops nothing that was not dropped before.
            order_N, inverse_N = sort_by_expert(group_KT)
            counts_E = self.twins.per_group(counts_E)
        return keep_within_capacity(group_KT, order_N, inverse_N, counts_E, capacity)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, RouterLosses]:
        """Transform tokens: [B, S, D] -> ([B, S, D], auxiliary losses)."""
        x_TD = x_BSD.flatten(0, -2)
        routing, order_N, inverse_N = self.route(x_TD)
        counts_E = routing.tokens_per_expert_E
        # Dropped assignments are computed with gate 0: shapes stay free of a host sync.
        y_ND = self.experts(dispatch(x_TD, order_N, inverse_N), counts_E)
        if self.output_hook is not None:
            y_ND = self.output_hook(y_ND, routing.expert_index_KT.flatten()[order_N])
        if self.counter is not None:
            self.counter(self.layer_id, self._load(counts_E))
            y_TD, nothing = combine(y_ND, routing.gate_KT, order_N, inverse_N), x_TD.new_zeros(())
            return y_TD.view_as(x_BSD), RouterLosses(nothing, nothing)
        if self.training and self.gate_observer is not None:
            self.gate_observer(self.layer_id, routing)
        y_TD = combine(y_ND, routing.gate_KT, order_N, inverse_N)
        if self.spy is not None:
            self.spy(self.layer_id, routing.detach(), y_TD.detach())
        load_E = self._load(counts_E)
        if self.training and self.sum_counts is not None:
            # With the batch's fractions in each part, the parts' mean is the batch's loss.
            load_E = self.sum_counts(load_E)
        if self.training and self.balance_observer is not None:
            self.balance_observer(self.layer_id, routing.probs_TE.detach(), load_E)
        losses = RouterLosses(
            load_balancing_loss(routing.probs_TE, load_E, self.num_groups),
            router_z_loss(routing.logits_TE),
        )
        if self.training:
            self._observe(routing, load_E)
        return y_TD.view_as(x_BSD), losses

    def _load(self, counts_E: Tensor) -> Tensor:
        return counts_E if self.twins is None else self.twins.per_group(counts_E)

    def _observe(self, routing: Routing, load_E: Tensor) -> None:
        if self.router.config.loss_free:
            self.router.load.add_(load_E)
        if self.observer is None:
            return
        if routing.kept_KT is not None:
            dispatched_E = torch.zeros_like(routing.tokens_per_expert_E).scatter_add_(
                0, routing.expert_index_KT.flatten(), routing.kept_KT.flatten().long()
            )
            routing = replace(routing, tokens_per_expert_E=dispatched_E)
        self.observer(self.layer_id, routing.detach())

    def hidden_axes(self) -> dict[str, int]:
        """Return the axis of the hidden units in each of an expert's weights, for alignment."""
        return {"experts.w1": 1, "experts.w2": 0}

    def slot_tensors(self) -> dict[str, Tensor]:
        """Return every tensor whose first dimension is the expert slot, by qualified name."""
        tensors: dict[str, Tensor] = {
            "router.weight": self.router.weight,
            "router.logit_offset": self.router.logit_offset,
            "router.selection_bias": self.router.selection_bias,
            "router.load": self.router.load,
            "experts.w1": self.experts.w1,
            "experts.w2": self.experts.w2,
        }
        if self.router.noise_weight is not None:
            tensors["router.noise_weight"] = self.router.noise_weight
        return tensors

    def set_slot_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace per-expert tensors by ones with another number of slots (all of them at once)."""
        for name, tensor in tensors.items():
            owner = self.router if name.startswith("router.") else self.experts
            setattr(owner, name.partition(".")[2], tensor)
