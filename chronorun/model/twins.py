"""Exclusive twins: two experts that share one router logit while the younger finds its own way.

A pair takes part in the routing as one group, through the parent's row and offset. Which member
gets a token is decided apart from the logits, by the side of a plane through the parent's inputs
on which the token lies: a split therefore takes no tokens from other experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Twin:
    """One pair, by slot; ``direction_D`` is a unit vector, ``threshold`` a scalar tensor."""

    parent: int
    child: int
    direction_D: Tensor
    threshold: Tensor


class Twins:
    """The exclusive pairs of one layer, as tensors ready for the forward pass."""

    def __init__(self, pairs: Sequence[Twin], num_experts: int) -> None:
        self.pairs = list(pairs)
        first = pairs[0].direction_D
        self.direction_PD = torch.stack([pair.direction_D for pair in pairs])
        self.threshold_P = torch.stack([pair.threshold for pair in pairs])
        group = list(range(num_experts))
        for pair in pairs:
            group[pair.child] = pair.parent
        self.group_E = torch.tensor(group, device=first.device)
        children = [pair.child for pair in pairs]
        self.is_child_E = torch.zeros(num_experts, dtype=torch.bool, device=first.device)
        self.is_child_E[children] = True

    @property
    def num_groups(self) -> int:
        """Experts and pairs that compete for top-k places."""
        return self.group_E.numel() - len(self.pairs)

    def hide_children(self, scores_TE: Tensor) -> Tensor:
        """Give children no score of their own."""
        return scores_TE.masked_fill(self.is_child_E, -torch.inf)

    def pick_members(self, group_KT: Tensor, x_TD: Tensor) -> Tensor:
        """Replace a chosen parent by its child for tokens on the child's side of the plane."""
        index_KT = group_KT
        side_TP = x_TD.detach() @ self.direction_PD.t() > self.threshold_P
        for column, pair in enumerate(self.pairs):
            chosen_KT = (group_KT == pair.parent) & side_TP[:, column]
            index_KT = index_KT.masked_fill(chosen_KT, pair.child)
        return index_KT

    def per_group(self, counts_E: Tensor) -> Tensor:
        """Add each child's count to its parent's; [E], 0 at the children."""
        return torch.zeros_like(counts_E).index_add_(0, self.group_E, counts_E)
