"""How an expert leaves with the least to be felt: pure functions of routing and weights."""

from __future__ import annotations

from chronorun.lifecycle.edit.offset_match import match_offset
from chronorun.lifecycle.edit.saved import Saved
from chronorun.model.population import is_router
from chronorun.model.shapes import Routing


def chosen_together(routing: Routing | None, slots: tuple[int, int]) -> bool:
    """Return whether any token chooses both of two slots."""
    if routing is None:
        return False
    first_T, second_T = ((routing.expert_index_KT == slot).any(dim=0) for slot in slots)
    return bool((first_T & second_T).any())


def unchosen_offset(routing: Routing, slot: int) -> float:
    """Return what to add to a slot's logits so that no token of ``routing`` chooses it."""
    logits_TE = routing.logits_TE
    others = [e for e in range(logits_TE.shape[1]) if e != slot]
    top_k = routing.expert_index_KT.shape[0]
    return match_offset(logits_TE[:, slot], logits_TE[:, others], top_k, 0.0)


def with_weights_of(expert: Saved, made: Saved) -> Saved:
    """Return an expert with the weights and moments of ``made``, in its own place in the router."""
    return Saved(
        expert.values | {n: v for n, v in made.values.items() if not is_router(n)},
        expert.moments | {n: m for n, m in made.moments.items() if not is_router(n)},
    )
