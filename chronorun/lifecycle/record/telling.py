"""The wording of an edit for people: its letter, the experts it names, the figures behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from chronorun.core.words import figure, finite, shown

if TYPE_CHECKING:
    from chronorun.lifecycle.record.decisions import LifecycleDecision


class Wording(NamedTuple):
    """Letter in pictures, past tense, and a form for the figures that decided."""

    letter: str
    done: str
    evidence: str


_WORDINGS: Mapping[str, Wording] = {
    "SPAWN": Wording(
        "N",
        "spawned",
        "router {starved_by} for {starvation_duration} checkpoints (patience {spawn_patience})",
    ),
    "PRUNE": Wording(
        "P", "pruned", "no token for {dormancy_duration} checkpoints (patience {prune_patience})"
    ),
    "SPLIT": Wording(
        "S",
        "split",
        "share {share} {over} for {overload_duration} checkpoints (patience {split_patience})",
    ),
    "MERGE": Wording(
        "M",
        "merged",
        "cosine {cosine} > {merge_similarity_threshold}, overlap {overlap} > "
        "{merge_overlap_threshold} for {convergence_duration} checkpoints "
        "(patience {merge_patience})",
    ),
    "REVIVE": Wording(
        "R",
        "revived",
        "router {starved_by} for {starvation_duration} checkpoints (patience {spawn_patience}), "
        "its tokens starve (overlap {archive_overlap})",
    ),
    "ROLLBACK": Wording(
        "U", "rolled back", "probe loss {probe_loss} with the edit, {undone_loss} without it"
    ),
}
"""The published actions in their order. Letters: N for new, U for undone."""
ACTIONS = tuple(_WORDINGS)
LETTERS = {action: wording.letter for action, wording in _WORDINGS.items()}
PAST_TENSE = {action: wording.done for action, wording in _WORDINGS.items()}
BIRTHS = ("SPAWN", "SPLIT", "REVIVE")
NOT_CARRIED_OUT = "not carried out: the run ended"
_COMMON = ("predicted_benefit", "unresolved_debt", "num_experts", "token_entropy_ratio")


def describe(decision: LifecycleDecision) -> str:
    """Return one line for people: ``step 240: SPLIT L0_E3 -> L0_E8: share 0.41 for 3 ...``."""
    d = decision
    step = d.step if d.integrated_step is None else d.integrated_step
    figures = evidence(d.action, d.metrics_at_decision, d.config_snapshot, d.undoes) or d.reason
    names = who(d.expert_id, d.parent_id, d.partner_id)
    line = f"step {step}: {'would ' if d.dry_run else ''}{d.action} {names}: {figures}"
    if d.integrated_step is None and not d.dry_run:
        return f"{line}, fading out"
    shock = d.receipt.get("probe_shock")
    if shock is not None:
        shock += d.receipt.get("averaged", {}).get("probe_shock", 0.0)
        line += f", {len(d.experts_after)} experts, probe loss {100 * shock:+.3f}%"
    return line


def who(expert_id: str, parent_id: str | None, partner_id: str | None) -> str:
    """Return the experts of an edit: ``L0_E3 -> L0_E8`` for a birth, ``a <- b`` for a merge."""
    name = shown(expert_id, 40) or "?"
    if parent_id is not None:
        return f"{shown(parent_id, 40)} -> {name}"
    return f"{name} <- {shown(partner_id, 40)}" if partner_id is not None else name


class _Figures(dict[str, Any]):
    """Values for the names in a form, in words."""

    def __getitem__(self, name: str) -> str:
        return figure(super().__getitem__(name), ".3g")


def evidence(
    action: str,
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    undoes: int | None = None,
) -> str:
    """Return the figures that decided, with the thresholds they were compared with.

    Where a record lacks one of them, the first few metrics are listed by name.
    """
    form = _WORDINGS[action].evidence if action in _WORDINGS else ""
    known = _Figures({**metrics, **config, "over": _over(metrics, config)})
    try:
        words = " ".join(form.format_map(known).split())
    except KeyError:
        words = ""
    if words and action == "ROLLBACK" and undoes is not None:
        words += f" (undoes decision {undoes})"
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


def natural(expert_id: str) -> tuple[tuple[int, int | str], ...]:
    """Return a key that sorts L0_E10 after L0_E9."""
    return tuple(
        (0, int(part)) if part.isdecimal() else (1, part)
        for part in re.split(r"([0-9]{1,15})", expert_id)
    )


def short_name(expert_id: str) -> str:
    """Return E9 for L2_E9, to label the rows of a layer's picture."""
    match = re.fullmatch(r"L[0-9]+_(E[0-9]{1,6})", expert_id)
    return match[1] if match else (expert_id if len(expert_id) <= 7 else expert_id[:6] + "…")
