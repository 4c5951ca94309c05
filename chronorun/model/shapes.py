"""Shape legend of this package, and the records that travel between its parts.

``B`` batch, ``S`` sequence, ``T = B*S`` tokens, ``D`` d_model, ``F`` hidden width of an expert,
``E`` live experts of a layer, ``K`` top-k, ``N = K*T`` assignments, ``V`` vocabulary. A suffix on
a name gives its shape: ``x_TD`` is [T, D].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """What one MoE layer decided for the tokens of one forward pass.

    Choices are K-major: ``expert_index_KT[0]`` holds each token's first choice. ``kept_KT`` is None
    when nothing can be dropped. ``tokens_per_expert_E`` counts assignments actually dispatched.
    """

    x_TD: Tensor
    logits_TE: Tensor
    probs_TE: Tensor
    expert_index_KT: Tensor
    gate_KT: Tensor
    kept_KT: Tensor | None
    tokens_per_expert_E: Tensor

    def detach(self) -> Routing:
        """Return the same record cut from the autograd graph, for observers."""
        kept = None if self.kept_KT is None else self.kept_KT.detach()
        return Routing(
            self.x_TD.detach(),
            self.logits_TE.detach(),
            self.probs_TE.detach(),
            self.expert_index_KT.detach(),
            self.gate_KT.detach(),
            kept,
            self.tokens_per_expert_E.detach(),
        )


@dataclass(frozen=True)
class RouterLosses:
    """Auxiliary losses of one layer (or their mean over layers), scalars."""

    load_balancing_loss: Tensor
    router_z_loss: Tensor


Observer = Callable[[int, Routing], None]
"""Called as ``observer(layer_id, routing)`` in training forwards only."""

Spy = Callable[[int, Routing, Tensor], None]
"""Called as ``spy(layer_id, routing, y_TD)`` with the layer's output, in every forward, training or
not: for a probe that measures what an edit does."""

BalanceObserver = Callable[[int, Tensor, Tensor], None]
"""Called as ``balance_observer(layer_id, probs_TE, load_E)`` with what the balancing loss is made
of, in training forwards only."""
