"""What an edit does, measured on the probe: the same batch in eval mode before and after.

The probe is a split of the corpus that training and validation never see. No gradient, no random
number, and no observer of training is fed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chronorun.model.abilities import spied
from chronorun.model.population import PopulationLayer
from chronorun.model.shapes import Routing

ProbeLoss = Callable[[int], float]
"""Returns the model's mean loss (nats per token) on the probe batch of a step, in eval mode."""


@dataclass(frozen=True)
class Reading:
    """The probe through one layer: loss, output and routing, and which expert each slot is."""

    loss: float
    expert_ids: list[str]
    y_TD: Tensor | None
    routing: Routing | None

    def shares(self) -> dict[str, float]:
        """Return each expert's share of the probe's assignments."""
        if self.routing is None:
            return {}
        counts = torch.bincount(
            self.routing.expert_index_KT.flatten(), minlength=len(self.expert_ids)
        ).tolist()
        total = max(1, sum(counts))
        return {name: n / total for name, n in zip(self.expert_ids, counts, strict=True)}


class _Spying:
    """Collects what passes through one layer, of however many forwards the probe takes."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.routings: list[Routing] = []

    def __call__(self, layer_id: int, routing: Routing, y_TD: Tensor) -> None:
        self.outputs.append(y_TD.flatten(0, -2))
        self.routings.append(routing)

    def joined(self) -> Routing | None:
        if not self.routings:
            return None
        if len(self.routings) == 1:
            return self.routings[0]
        kept = [r.kept_KT for r in self.routings]
        return Routing(
            torch.cat([r.x_TD for r in self.routings]),
            torch.cat([r.logits_TE for r in self.routings]),
            torch.cat([r.probs_TE for r in self.routings]),
            torch.cat([r.expert_index_KT for r in self.routings], dim=1),
            torch.cat([r.gate_KT for r in self.routings], dim=1),
            torch.cat([k for k in kept if k is not None], dim=1)
            if all(k is not None for k in kept)
            else None,
            torch.stack([r.tokens_per_expert_E for r in self.routings]).sum(0),
        )


def take_reading(
    probe: ProbeLoss, step: int, layer: PopulationLayer, expert_ids: Sequence[str]
) -> Reading:
    """Run the probe of a step and keep what passes through one layer."""
    spy = _Spying()
    with spied(layer, spy):
        loss = probe(step)
    y_TD = torch.cat(spy.outputs) if spy.outputs else None
    return Reading(loss, list(expert_ids), y_TD, spy.joined())


def receipt(before: Reading, after: Reading, concerned: Sequence[str]) -> dict[str, Any]:
    """Return what changed between two readings of one probe.

    ``probe_loss_before/after`` and ``probe_shock`` (relative); ``output_change``, the RMS of the
    change of the layer's output over that of the output, over all tokens; ``gate_kl`` in nats per
    token; ``probe_share`` of the experts concerned.
    """
    shares = before.shares(), after.shares()
    return {
        "probe_loss_before": before.loss,
        "probe_loss_after": after.loss,
        "probe_shock": (after.loss - before.loss) / abs(before.loss) if before.loss else 0.0,
        "output_change": _output_change(before, after),
        "gate_kl": _gate_kl(before, after),
        "probe_share": {
            name: [side.get(name) for side in shares] for name in dict.fromkeys(concerned)
        },
    }


def _output_change(before: Reading, after: Reading) -> float | None:
    if before.y_TD is None or after.y_TD is None or before.y_TD.shape != after.y_TD.shape:
        return None
    old, new = before.y_TD.double(), after.y_TD.double()
    return float((new - old).norm() / old.norm().clamp(min=1e-300))


def _gate_kl(before: Reading, after: Reading) -> float | None:
    """Return KL(before || after) of the router's softmax over the experts that both know."""
    if before.routing is None or after.routing is None:
        return None
    common = [name for name in before.expert_ids if name in after.expert_ids]
    p, q = (
        torch.log_softmax(
            r.routing.logits_TE[:, [r.expert_ids.index(name) for name in common]].double(), dim=-1
        )
        for r in (before, after)
        if r.routing is not None
    )
    # An exclusive child has no logit of its own: -inf on a side says nothing.
    both = torch.isfinite(p) & torch.isfinite(q)
    return float(torch.where(both, p.exp() * (p - q), 0.0).sum(dim=-1).mean())
