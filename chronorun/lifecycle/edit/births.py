"""What newborn and merged experts are made of: weights, router row, offset, moments.

Nothing here changes a model. Noise comes from a generator of its own, seeded by (run seed, step,
expert id): the run's random stream is left alone, and every process makes the same expert.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chronorun.config.lifecycle import (
    ChildMoments,
    LifecycleConfig,
    MergeOffset,
    MergeWeights,
    SpawnInit,
)
from chronorun.lifecycle.edit.alignment import (
    average,
    hidden_permutation,
    permute_hidden,
)
from chronorun.lifecycle.edit.moments import Moments, averaged_moments, child_moments
from chronorun.lifecycle.edit.offset_match import match_offset
from chronorun.lifecycle.edit.saved import Saved
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS, is_router
from chronorun.model.shapes import Routing

Values = Mapping[str, Tensor]
LN2 = 0.6931471805599453
BLANK = (ChildMoments.zero, ChildMoments.zero_no_rewarm)


def seeded(seed: int, step: int, expert_id: str) -> torch.Generator:
    """Return the generator of one newborn's noise."""
    digest = hashlib.sha256(f"{seed}|{step}|{expert_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def perturbed(values: Values, scale: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a copy whose expert weights carry Gaussian noise of ``scale`` times their RMS."""
    made = {name: value.clone() for name, value in values.items()}
    for name, value in made.items():
        if not is_router(name) and value.is_floating_point() and scale > 0.0:
            value += scale * _rms(value) * _noise(value, generator)
    return made


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU: the same numbers on every device.
    return torch.randn(like.shape, generator=generator).to(like)


def _rms(value: Tensor) -> Tensor:
    return value.detach().double().square().mean().sqrt().to(value.dtype)


def clone_of(
    parent: Saved, config: LifecycleConfig, generator: torch.Generator
) -> tuple[Saved, bool]:
    """Return a perturbed copy of an expert, row and offset included, and whether it re-warms."""
    values = perturbed(parent.values, config.split_perturbation_scale, generator)
    # Counts are the parent's: copied, they would count twice.
    values |= {n: torch.zeros_like(v) for n, v in values.items() if not v.is_floating_point()}
    how = config.child_moments
    return Saved(values, child_moments(parent.moments, how)), how is ChildMoments.zero


def spawned(
    cluster: Sequence[Saved],
    population: Sequence[Values],
    served_badly_ND: Tensor | None,
    hidden_axes: Mapping[str, int],
    config: LifecycleConfig,
    generator: torch.Generator,
) -> tuple[Saved, bool]:
    """Return a newborn by ``spawn_init_strategy``, and whether it re-warms.

    ``cluster`` opens with the most loaded expert. A clone has its parent's row; the others point at
    the mean of the tokens [N, D] that are served badly, as long as the rows of the layer are.
    """
    strategy = config.spawn_init_strategy
    if strategy is SpawnInit.clone_and_perturb:
        return clone_of(cluster[0], config, generator)
    source = cluster[0]
    values = {name: torch.zeros_like(value) for name, value in source.values.items()}
    if strategy is SpawnInit.mean_cluster:
        for member in cluster:
            order = hidden_permutation(member.values, source.values, hidden_axes)
            matched = permute_hidden(member.values, order, hidden_axes)
            for name, value in matched.items():
                if value.is_floating_point():
                    values[name] += value / len(cluster)
        moments, rewarm = child_moments(source.moments, config.child_moments), False
        rewarm = config.child_moments is ChildMoments.zero
    else:
        for name, value in values.items():
            if not is_router(name) and value.is_floating_point():
                rms = torch.stack([_rms(each[name]) for each in population]).mean()
                value += rms * _noise(value, generator)
        # No expert's history fits weights that were drawn anew.
        moments = child_moments(source.moments, ChildMoments.zero)
        rewarm = config.child_moments is not ChildMoments.zero_no_rewarm
    values[ROUTER_ROWS] = row_for(served_badly_ND, population)
    values[LOGIT_OFFSET] = torch.zeros_like(values[LOGIT_OFFSET])
    return Saved(values, moments), rewarm


def row_for(tokens_ND: Tensor | None, population: Sequence[Values]) -> Tensor:
    """Return a router row [D] towards the mean of some tokens, as long as the layer's rows are.

    Without tokens it is the mean of the rows.
    """
    rows_ED = torch.stack([values[ROUTER_ROWS] for values in population])
    mean_D = rows_ED.mean(0)
    if tokens_ND is not None and len(tokens_ND):
        centre_D = tokens_ND.float().mean(0).to(rows_ED)
        length = rows_ED.norm(dim=1).mean()
        mean_D = centre_D / centre_D.norm().clamp(min=1e-12) * length
    return mean_D


def revived(
    archived: Saved,
    population: Sequence[Values],
    served_badly_ND: Tensor | None,
    drifted: bool,
    config: LifecycleConfig,
) -> tuple[Saved, bool]:
    """Return an archived expert as it comes back, and whether it re-warms.

    Where the layer's inputs have drifted since, its old row points at tokens that no longer are.
    """
    values = {name: value.clone() for name, value in archived.values.items()}
    values[LOGIT_OFFSET] = torch.zeros_like(values[LOGIT_OFFSET])
    if drifted:
        values[ROUTER_ROWS] = row_for(served_badly_ND, population)
    how = config.child_moments
    return Saved(values, child_moments(archived.moments, how)), how is ChildMoments.zero


def merged(
    survivor: Saved,
    absorbed: Saved,
    shares: tuple[float, float],
    hidden_axes: Mapping[str, int],
    config: LifecycleConfig,
) -> Saved:
    """Return the average of two experts, hidden units aligned; the offset is still the mean."""
    total = sum(shares)
    by_share = config.merge_weights is MergeWeights.share and total > 0.0
    weight = shares[0] / total if by_share else 0.5
    order = hidden_permutation(absorbed.values, survivor.values, hidden_axes)
    values = average(survivor.values, permute_hidden(absorbed.values, order, hidden_axes), weight)
    moments = averaged_moments(
        survivor.moments,
        _permuted(absorbed.moments, order, hidden_axes),
        weight,
        config.merged_moments,
    )
    return Saved(values, moments)


def _permuted(moments: Moments, order: Tensor, hidden_axes: Mapping[str, int]) -> Moments:
    return {
        name: permute_hidden(entries, order, dict.fromkeys(entries, hidden_axes[name]))
        if name in hidden_axes
        else entries
        for name, entries in moments.items()
    }


def merged_offset(
    values: Values,
    routing: Routing | None,
    slots: tuple[int, int],
    how: MergeOffset,
) -> float:
    """Return the logit offset of a merged expert.

    ``match`` gives it the fraction of tokens of ``routing`` that chose either before. The naive
    ``ln2`` adds the two old probabilities in the softmax, which under top-k doubles the share.
    """
    base = float(values[LOGIT_OFFSET])
    if how is MergeOffset.ln2:
        return base + LN2
    if how is MergeOffset.zero or routing is None:
        return base
    others = [e for e in range(routing.logits_TE.shape[1]) if e not in slots]
    row_D = values[ROUTER_ROWS].to(routing.x_TD)
    chosen_T = torch.isin(
        routing.expert_index_KT, torch.tensor(slots, device=routing.expert_index_KT.device)
    ).any(dim=0)
    return match_offset(
        routing.x_TD @ row_D,
        routing.logits_TE[:, others],
        routing.expert_index_KT.shape[0],
        float(chosen_T.double().mean()),
    )


def released(
    parent: Values, direction_D: Tensor, threshold: Tensor, delta: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what the router holds of twins that start to compete: (parent's, child's).

    Both begin from what the pair shared, the parent's: rows apart by ``delta`` along the plane's
    normal, with offsets that put the boundary between them where the plane was,
    ``w.x +- delta |w| (u.x - m)``. The child gets the parent's noise row and selection bias, too:
    its own were not in use, and drifted.
    """
    shared = {n: v for n, v in parent.items() if is_router(n) and v.is_floating_point()}
    row_D, offset = parent[ROUTER_ROWS], parent[LOGIT_OFFSET]
    step = delta * row_D.norm()
    shift = (step * threshold.to(row_D)).to(offset)
    shift_D = step * direction_D.to(row_D)
    return (
        {ROUTER_ROWS: row_D - shift_D, LOGIT_OFFSET: offset + shift},
        shared | {ROUTER_ROWS: row_D + shift_D, LOGIT_OFFSET: offset - shift},
    )


def common_offset(twins: Sequence[Values], routing: Routing, slots: tuple[int, int]) -> float:
    """Return what to add to both twins' logit offsets so that they keep the tokens they shared.

    ``routing`` is of the exclusive pair, in whose tokens either of ``slots`` was chosen.
    """
    index_KT = routing.expert_index_KT
    others = [e for e in range(routing.logits_TE.shape[1]) if e not in slots]
    chosen_T = torch.isin(index_KT, torch.tensor(slots, device=index_KT.device)).any(dim=0)
    logits = [
        routing.x_TD @ each[ROUTER_ROWS].to(routing.x_TD) + each[LOGIT_OFFSET].to(routing.x_TD)
        for each in twins
    ]
    return match_offset(
        torch.maximum(*logits),
        routing.logits_TE[:, others],
        index_KT.shape[0],
        float(chosen_T.double().mean()),
    )
