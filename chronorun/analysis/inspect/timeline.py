"""The actions of a run for people: what, who, why, and what the probe measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.analysis.reading.fields import scalars
from chronorun.analysis.reading.gather import Counts, count
from chronorun.analysis.reading.records import Decision, Judgement
from chronorun.core.words import finite, shown, signed
from chronorun.lifecycle.record import telling
from chronorun.lifecycle.record.telling import NOT_CARRIED_OUT

HEAD, TAIL = 20, 20
"""Actions that a terminal shows: the first and the last."""


@dataclass
class Timeline:
    """The actions that are listed: counted all, the first and the last of them kept."""

    head: list[Decision] = field(default_factory=list)
    tail: deque[Decision] = field(default_factory=lambda: deque(maxlen=TAIL))
    listed: int = 0
    counts: Counts = field(default_factory=dict)

    def add(self, decision: Decision) -> None:
        """Add the next action."""
        self.listed += 1
        count(self.counts, decision)
        if len(self.head) < HEAD:
            self.head.append(decision)
        else:
            self.tail.append(decision)

    @property
    def left_out(self) -> int:
        """Return how many lie between the first and the last that are kept."""
        return self.listed - len(self.head) - len(self.tail)


def who(decision: Decision) -> str:
    """Return the experts of an action."""
    return telling.who(decision.expert_id, decision.parent_id, decision.partner_id)


def what(decision: Decision) -> str:
    """Return the action's name, marked where it would only have been done."""
    name = shown(decision.action, 20) or "?"
    return f"would {name}" if decision.dry_run else name


def why(decision: Decision) -> str:
    """Return reason and evidence in words."""
    reason, figures = shown(decision.reason, 80), evidence(decision)
    return f"{reason}: {figures}" if reason and figures else reason or figures


def evidence(decision: Decision) -> str:
    """Return the figures that decided, with their thresholds where the record has them."""
    d = decision
    metrics, config = scalars(d.metrics_at_decision), scalars(d.config_snapshot)
    return telling.evidence(d.action, metrics, config, d.undoes)


def receipt(decision: Decision, judgement: Judgement | None = None) -> str:
    """Return what the edit did: to the experts, to the probe loss, and its judged benefit."""
    if decision.is_unfinished:
        return NOT_CARRIED_OUT
    felt = scalars(decision.receipt)
    parts = []
    before = decision.before()
    if before and decision.experts_after:
        parts.append(f"{len(before)} -> {len(decision.experts_after)} experts")
    return ", ".join([*parts, *probe_words(felt), *_benefits(decision, judgement)])


def probe_words(felt: Mapping[str, Any]) -> list[str]:
    """Return the probe's measurements in words."""
    parts = []
    if (shock := finite(felt.get("probe_shock"))) is not None:
        parts.append(f"probe loss {signed(100 * shock, 3)}%" if shock else "probe loss unchanged")
    if (change := finite(felt.get("output_change"))) is not None:
        parts.append(f"output change {change:.3f}")
    return parts


def _benefits(decision: Decision, judgement: Judgement | None) -> list[str]:
    if judgement is None or judgement.realised is None:
        return []
    realised = judgement.realised
    predicted = finite(scalars(decision.metrics_at_decision).get("predicted_benefit"))
    told = "" if predicted is None else f" (expected {signed(predicted)})"
    verdict = "harmful" if judgement.harmful else "helped" if realised < 0.0 else "no harm"
    return [f"judged {verdict}: {signed(realised)} nats{told}"]


def action_record(decision: Decision, judgement: Judgement | None = None) -> dict[str, Any]:
    """Return an action for programs: see ``inspect.schema.json``."""
    d = decision
    metrics, felt = scalars(d.metrics_at_decision), scalars(d.receipt)
    config = scalars(d.config_snapshot)
    return {
        "run_id": d.run_id[:200],
        "seq": d.seq,
        "step": d.step,
        "integrated_step": d.at if isinstance(d.integrated_step, int) else None,
        "action": d.action[:200],
        "dry_run": d.dry_run,
        "carried_out": not (d.dry_run or d.is_unfinished),
        "layer_id": d.layer_id,
        "expert_id": d.expert_id[:200],
        "parent_id": None if d.parent_id is None else d.parent_id[:200],
        "partner_id": None if d.partner_id is None else d.partner_id[:200],
        "undoes": d.undoes,
        "reason": d.reason[:200],
        "evidence": telling.evidence(d.action, metrics, config, d.undoes),
        "experts_before": len(d.before()) or None,
        "experts_after": len(d.experts_after) or None,
        "probe_shock": finite(felt.get("probe_shock")),
        "output_change": finite(felt.get("output_change")),
        "predicted_benefit": finite(metrics.get("predicted_benefit")),
        "realised_benefit": None if judgement is None else judgement.realised,
        "harmful": None if judgement is None else judgement.harmful,
        "metrics": metrics,
        "config": config,
    }


Sink = Callable[[Decision, Judgement | None], None]
