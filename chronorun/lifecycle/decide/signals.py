"""Every number that the policies read, per checkpoint and layer; written to the evaluation log.

Nothing else enters a decision but these, the policy's own state and the configuration: that is what
makes a run's decisions derivable from its logs.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from chronorun.lifecycle.experts.states import LIVE, ExpertState


@dataclass(frozen=True)
class ExpertSignals:
    """One live expert. ``twin_of`` names the parent while an exclusive pair lasts.

    ``overflow`` is the share of the layer's assignments beyond this expert's capacity;
    ``weight_deviation`` how far its weight change lies from its window's median, in MAD;
    ``two_mode_score`` the two-centroid separation x balance of its inputs; ``contribution`` the
    derivative of the training loss by the log of its output's scale, in nats (above 0: its output
    does harm, to first order), ``token_harm`` the same per token that it serves, with its standard
    error; ``leave_one_out_gain`` the probe loss (nats) that leaving it out
    gains. None: not measured at this checkpoint.
    """

    expert_id: str
    state: ExpertState
    born_step: int
    share: float
    parent_id: str | None = None
    twin_of: str | None = None
    ramping: bool = False
    overflow: float = 0.0
    weight_norm: float = 0.0
    weight_delta: float = 0.0
    weight_deviation: float | None = None
    two_mode_score: float | None = None
    contribution: float | None = None
    token_harm: float | None = None
    token_harm_error: float | None = None
    leave_one_out_gain: float | None = None


@dataclass(frozen=True)
class PairSignals:
    """Weight cosine and basin overlap of two experts of a layer, the first in slot order first."""

    first: str
    second: str
    cosine: float
    overlap: float


@dataclass(frozen=True)
class ArchiveMatch:
    """How well an archived expert's basin overlaps the tokens that are starved now."""

    expert_id: str
    overlap: float


@dataclass(frozen=True)
class ProbationReading:
    """What the probe says of an edit at the end of its probation, in nats.

    ``probe_loss`` as things are; ``undone_loss`` at the same weights with the edit structurally
    undone; ``restored_loss`` with the saved bundle put back, measured where the edit did harm.
    """

    seq: int
    probe_loss: float
    undone_loss: float
    restored_loss: float | None = None

    @property
    def realised_benefit(self) -> float:
        """Probe loss as it is minus that with the edit undone; below zero the edit helps."""
        return self.probe_loss - self.undone_loss


@dataclass(frozen=True)
class LayerSignals:
    """One layer at one checkpoint.

    ``dispatched`` counts the window's assignments (0: the window says nothing); ``max_top_k`` is
    the largest top-k the run will use; ``topology_debt`` the controller's, ``unresolved_debt`` the
    same without cooling and ramping experts; ``token_entropy_ratio`` the mean entropy of the
    router's softmax per token over ln of the groups; ``lens_scale`` what the lens was set to at
    this checkpoint (0: it abstained); ``cluster`` the most loaded expert and those nearest to it;
    ``next_expert_id`` the id a new expert would get.
    """

    step: int
    checkpoint: int
    layer_id: int
    top_k: int
    max_top_k: int
    dispatched: int
    experts: list[ExpertSignals]
    layer_entropy: float
    layer_neff: float
    topology_debt: float
    unresolved_debt: float
    token_entropy_ratio: float
    lens_scale: float
    next_expert_id: str
    pending_spawns: int = 0
    pairs: list[PairSignals] = field(default_factory=list)
    cluster: list[str] = field(default_factory=list)
    archive_matches: list[ArchiveMatch] = field(default_factory=list)
    probations: list[ProbationReading] = field(default_factory=list)

    @property
    def n_experts(self) -> int:
        """Live experts, and those about to be."""
        return len(self.experts) + self.pending_spawns

    @cached_property
    def groups(self) -> list[ExpertSignals]:
        """The live experts that stay, exclusive twins counted once (by their parent)."""
        gone = ExpertState.pending_prune
        return [e for e in self.experts if e.twin_of is None and e.state is not gone]

    def expert(self, expert_id: str) -> ExpertSignals | None:
        """Return a live expert by id."""
        return next((e for e in self.experts if e.expert_id == expert_id), None)

    def twins(self) -> frozenset[str]:
        """Return the ids of all members of exclusive pairs."""
        children = [e for e in self.experts if e.twin_of is not None]
        return frozenset(i for e in children for i in (e.expert_id, e.twin_of) if i is not None)

    def settled(self, barred: Collection[str] = ()) -> list[ExpertSignals]:
        """Return the experts that may be judged: active, at full strength, no twins, not barred."""
        twins = self.twins()
        return [
            e
            for e in self.experts
            if e.state is ExpertState.active
            and not e.ramping
            and e.expert_id not in twins
            and e.expert_id not in barred
        ]


def check_signals(signals: LayerSignals) -> None:
    """Raise AssertionError where signals cannot come from one layer: for those who fill them."""
    ids = [e.expert_id for e in signals.experts]
    assert len(set(ids)) == len(ids), f"layer {signals.layer_id}: an expert is listed twice"
    assert all(e.state in LIVE for e in signals.experts), f"layer {signals.layer_id}: not live"
    numbers = [
        signals.unresolved_debt,
        signals.token_entropy_ratio,
        *(e.share for e in signals.experts),
    ]
    assert all(math.isfinite(x) for x in numbers), f"layer {signals.layer_id}: not finite"
