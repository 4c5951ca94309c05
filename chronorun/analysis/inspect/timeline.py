"""Actions as people read them: what, who, why, and what the probe felt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chronorun.analysis.reading.records import NOT_CARRIED_OUT, Decision, Judgement
from chronorun.analysis.reading.text import figure, finite, scalars, shown, signed

_MOST_KINDS = 100
HEAD, TAIL = 20, 20
"""Actions that a terminal shows: the first and the last."""
_EVIDENCE: Mapping[str, str] = {
    "SPLIT": "share {share} {over} for {overload_duration} checkpoints (patience {split_patience})",
    "PRUNE": "no token for {dormancy_duration} checkpoints (patience {prune_patience})",
    "MERGE": (
        "cosine {cosine} > {merge_similarity_threshold}, overlap {overlap} > "
        "{merge_overlap_threshold} for {convergence_duration} checkpoints "
        "(patience {merge_patience})"
    ),
    "SPAWN": (
        "router {starved_by} for {starvation_duration} checkpoints (patience {spawn_patience})"
    ),
    "REVIVE": (
        "router {starved_by} for {starvation_duration} checkpoints (patience {spawn_patience}), "
        "its tokens starve (overlap {archive_overlap})"
    ),
    "ROLLBACK": "probe loss {probe_loss} with the edit, {undone_loss} without it",
}
_COMMON = ("predicted_benefit", "unresolved_debt", "num_experts", "token_entropy_ratio")


Fate = Literal["done", "unfinished", "would"]
"""Carried out, decided and not carried out when the run ended, or only proposed."""


@dataclass
class Timeline:
    """The actions that are listed: counted all, the first and the last of them kept."""

    head: list[Decision] = field(default_factory=list)
    tail: deque[Decision] = field(default_factory=lambda: deque(maxlen=TAIL))
    listed: int = 0
    counts: dict[tuple[str, Fate], int] = field(default_factory=dict)

    def add(self, decision: Decision) -> None:
        """Add the next action."""
        self.listed += 1
        fate: Fate = "would" if decision.dry_run else "done"
        if decision.integrated_step is None and fate == "done":
            fate = "unfinished"
        key = (decision.action, fate)
        counts = self.counts
        if key in counts:
            counts[key] += 1
        elif len(counts) < _MOST_KINDS:
            counts[key] = 1
        if len(self.head) < HEAD:
            self.head.append(decision)
        else:
            self.tail.append(decision)

    @property
    def left_out(self) -> int:
        """Return how many lie between the first and the last that are kept."""
        return self.listed - len(self.head) - len(self.tail)


def who(decision: Decision) -> str:
    """Return the experts of an action: ``L0_E3 -> L0_E8`` for a birth, ``a <- b`` for a merge."""
    d = decision
    name = shown(d.expert_id, 40) or "?"
    if d.parent_id is not None:
        return f"{shown(d.parent_id, 40)} -> {name}"
    return f"{name} <- {shown(d.partner_id, 40)}" if d.partner_id is not None else name


def what(decision: Decision) -> str:
    """Return the action's name, marked where it would only have been done."""
    name = shown(decision.action, 20) or "?"
    return f"would {name}" if decision.dry_run else name


def why(decision: Decision) -> str:
    """Return reason and evidence in words."""
    reason, figures = shown(decision.reason, 80), evidence(decision)
    return f"{reason}: {figures}" if reason and figures else reason or figures


class _Figures(dict[str, Any]):
    """Values that a form's names stand for, in words."""

    def __getitem__(self, name: str) -> str:
        return figure(super().__getitem__(name), ".3g")


def evidence(decision: Decision) -> str:
    """Return the figures that decided, beside what they were compared with where that is known."""
    return _evidence(
        decision, scalars(decision.metrics_at_decision), scalars(decision.config_snapshot)
    )


def _evidence(decision: Decision, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    form = _EVIDENCE.get(decision.action, "")
    known = _Figures({**metrics, **config, "over": _over(metrics, config)})
    try:
        words = " ".join(form.format_map(known).split())
    except KeyError:
        words = ""
    if words and decision.action == "ROLLBACK" and decision.undoes is not None:
        words += f" (undoes decision {decision.undoes})"
    return words or _listed(metrics, config)


def _over(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return which of its two thresholds a share exceeded."""
    share, relative = finite(metrics.get("share")), finite(metrics.get("share_ratio"))
    threshold, ratio = (
        finite(config.get(k)) for k in ("split_share_threshold", "split_share_ratio")
    )
    if share is not None and threshold is not None and share > threshold:
        return f"> {threshold:g}"
    if relative is not None and ratio is not None:
        return f"({relative:.2f} > {ratio:g} times the even share)"
    return ""


def _listed(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    parts: list[str] = []
    patience = next((value for key, value in config.items() if key.endswith("_patience")), None)
    # What is compared with a patience says most.
    for key in sorted(metrics, key=lambda name: not name.endswith("_duration")):
        if key in _COMMON or len(parts) == 5:
            continue
        text = f"{shown(key, 40)} {figure(metrics[key], '.3g')}"
        limit = patience if key.endswith("_duration") else None
        parts.append(text if limit is None else f"{text} (patience {figure(limit)})")
    return ", ".join(parts)


def receipt(decision: Decision, judgement: Judgement | None = None) -> str:
    """Return what the edit did: experts, what the probe felt, what it was worth in the end."""
    if decision.is_unfinished:
        return NOT_CARRIED_OUT
    felt = scalars(decision.receipt)
    parts = []
    before = decision.before()
    if before and decision.experts_after:
        parts.append(f"{len(before)} -> {len(decision.experts_after)} experts")
    return ", ".join([*parts, *probe_words(felt), *_benefits(decision, judgement)])


def probe_words(felt: Mapping[str, Any]) -> list[str]:
    """Return what the probe felt, in words."""
    parts = []
    if (shock := finite(felt.get("probe_shock"))) is not None:
        parts.append(f"probe loss {signed(100 * shock, 3)}%" if shock else "probe loss unchanged")
    if (change := finite(felt.get("output_change"))) is not None:
        parts.append(f"output change {change:.3f}")
    return parts


def _benefits(decision: Decision, judgement: Judgement | None) -> list[str]:
    if judgement is None or judgement.realised_benefit is None:
        return []
    realised = judgement.realised_benefit
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
        "evidence": _evidence(d, metrics, config),
        "experts_before": len(d.before()) or None,
        "experts_after": len(d.experts_after) or None,
        "probe_shock": finite(felt.get("probe_shock")),
        "output_change": finite(felt.get("output_change")),
        "predicted_benefit": finite(metrics.get("predicted_benefit")),
        "realised_benefit": None if judgement is None else judgement.realised_benefit,
        "harmful": None if judgement is None else judgement.harmful,
        "metrics": metrics,
        "config": config,
    }


Sink = Callable[[Decision, Judgement | None], None]
