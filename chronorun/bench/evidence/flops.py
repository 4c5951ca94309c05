"""What a run computed: parameters and floating-point operations, from its configuration.

Operations are counted as usual: two per multiply-add of a matrix product, three times as many for
forward and backward as for a forward alone (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), and
the attention scores and their weighting apart (PaLM, Chowdhery et al. 2022, arXiv:2204.02311,
appendix B: 12 L H Q T per token, forward and backward). Norms, softmax, the lens, routing
book-keeping and the embedding's lookup are not counted; the tied output head is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chronorun.config.model import ModelConfig


@dataclass(frozen=True)
class Shape:
    """What the counts depend on, beside the number of experts of each MoE layer."""

    model: ModelConfig
    vocab_size: int
    noisy_router: bool = False

    @property
    def _routers(self) -> int:
        return 2 if self.noisy_router else 1

    @property
    def _expert(self) -> int:
        return 2 * self.model.d_model * self.model.ff_width

    def _shared(self) -> int:
        """Return the weights of matrix products that every token takes part in, routers apart."""
        m = self.model
        attention = 4 * m.d_model**2 * m.n_layers
        dense = (m.n_layers - m.num_moe_layers) * m.top_k * self._expert
        return attention + dense + self.vocab_size * m.d_model

    def total_parameters(self, experts: Sequence[int]) -> int:
        """Return all parameters of a model with so many experts in each MoE layer."""
        m = self.model
        norms = (2 * m.n_layers + 1) * m.d_model
        each = self._expert + self._routers * m.d_model
        return self._shared() + norms + sum(experts) * each

    def active_parameters(self, experts: Sequence[int], top_k: Sequence[int] | None = None) -> int:
        """Return the weights of the matrix products that one token takes part in.

        ``top_k`` by MoE layer, where it is not the model's (a stress may change it).
        """
        m = self.model
        chosen = top_k or [m.top_k] * len(experts)
        routed = sum(min(k, n) * self._expert for k, n in zip(chosen, experts, strict=True))
        return self._shared() + routed + self._routers * m.d_model * sum(experts)

    def training_flops_per_token(
        self, experts: Sequence[int], top_k: Sequence[int] | None = None
    ) -> int:
        """Return the operations of a token's forward and backward."""
        m = self.model
        attention = 12 * m.n_layers * m.d_model * m.context_length
        return 6 * self.active_parameters(experts, top_k) + attention

    def forward_flops_per_token(
        self, experts: Sequence[int], top_k: Sequence[int] | None = None
    ) -> float:
        """Return the operations of a token's forward alone."""
        return self.training_flops_per_token(experts, top_k) / 3
