"""Whether one expert was pruned, split or merged, and why or why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chronorun.analysis.inspect.expert_story import DIGITS, Held, Story
from chronorun.analysis.inspect.timeline import evidence
from chronorun.analysis.reading.records import Decision
from chronorun.core.words import finite, shown
from chronorun.lifecycle.record.telling import NOT_CARRIED_OUT, PAST_TENSE


def answers(story: Story) -> list[tuple[str, bool, str]]:
    """Return (action, whether it happened, why or why not) for prune, split and merge."""
    return [_answer(story, action) for action in ("PRUNE", "SPLIT", "MERGE")]


def _answer(story: Story, action: str) -> tuple[str, bool, str]:
    done = PAST_TENSE[action]
    mine = [d for d in story.decisions if d.action == action]
    mine = [d for d in mine if action != "SPLIT" or d.parent_id == story.expert_id]
    if not mine:
        return action, False, f"was not {done}: {_why_not(story, action)}"
    # What was done says more than what a run's end left undone.
    d = max(reversed(mine), key=lambda d: not d.is_unfinished)
    why = evidence(d) or shown(d.reason, 80)
    would = "would have been" if d.dry_run else "was"
    text = f"{would} {done} at step {d.at}: {why}"
    if d.is_unfinished:
        text = f"was to be {done} (decided at step {d.at}, {NOT_CARRIED_OUT}): {why}"
    text += _putting_off(story, action) + _afterwards(story, d)
    return action, not (d.dry_run or d.is_unfinished), text


def _putting_off(story: Story, action: str) -> str:
    told = _refusals(story, action)
    return f"; before that it was proposed and refused: {told}" if told else ""


def _afterwards(story: Story, done: Decision) -> str:
    told = ""
    for d in story.decisions[story.decisions.index(done) + 1 :]:
        if d.is_unfinished:
            continue
        if done.seq is not None and d.undoes == done.seq:
            told += f"; that was rolled back at step {d.at}"
        elif d.action == "REVIVE" and d.expert_id == story.expert_id:
            told += f"; it was revived at step {d.at}"
    return told


def _refusals(story: Story, action: str) -> str:
    reasons: dict[str, tuple[str, int]] = {}
    for spell in story.spells:
        if (
            spell.action == action
            and spell.seq is None
            and spell.status != "executed"
            and not (action == "SPLIT" and spell.role.startswith("born"))
        ):
            key = DIGITS.sub("#", spell.why)
            reasons[key] = (spell.why, reasons.get(key, ("", 0))[1] + spell.cycles)
    parts = [f"{shown(why, 100)} ({cycles}x)" for why, cycles in list(reasons.values())[:4]]
    return "; ".join(parts)


def _why_not(story: Story, action: str) -> str:
    if story.config.get("enabled") is False:
        return "the lifecycle is off (lifecycle.enabled=false)"
    if story.config.get(f"{action.lower()}_enabled") is False:
        return f"that is off (lifecycle.{action.lower()}_enabled=false)"
    if not story.evaluated:
        return "the reason is not recorded here (no lifecycle_evaluations.jsonl)"
    if not story.checkpoints:
        return "it was at no checkpoint"
    held = {"PRUNE": story.dormancy, "SPLIT": story.overload, "MERGE": story.convergence}[action]
    refusals = _refusals(story, action)
    if refusals:
        return (
            f"its condition held for up to {held.longest} checkpoints (patience "
            f"{_or_unknown(held.patience)}), so it was proposed, and refused: {refusals}"
        )
    return f"{_condition(story, action)}; {_lasted(held)}"


def _condition(story: Story, action: str) -> str:
    if action == "PRUNE":
        if not story.dormancy.longest and story.share.low == 0.0:
            return "it was without tokens only while it was new, which does not count"
        if not story.dormancy.longest:
            return (
                f"it got tokens at every checkpoint (lowest share {story.share.low:.4f}"
                f"{_at(story.lowest_step)})"
            )
        return "it was without tokens only for a while"
    if action == "SPLIT":
        if story.highest is None:
            return "it was at no checkpoint active, at full strength and no twin"
        limits = split_limits(story.config, story.highest.even_share)
        above = f", overloaded above {limits}" if limits else ""
        return f"its share was at most {story.highest.share:.4f}{_at(story.highest.step)}{above}"
    if story.nearest is None:
        return "no other expert was compared with it"
    n = story.nearest
    return (
        f"nearest was {shown(n.partner_id, 40)} at step {n.step}: cosine {n.cosine:.3f} "
        f"(above {_or_unknown(story.config.get('merge_similarity_threshold'))} needed), "
        f"overlap {n.overlap:.3f} "
        f"(above {_or_unknown(story.config.get('merge_overlap_threshold'))} needed)"
    )


def split_limits(config: Mapping[str, Any], even_share: float | None) -> str:
    """Return the shares above which an expert counts as overloaded, given the even share."""
    threshold = finite(config.get("split_share_threshold"))
    ratio = finite(config.get("split_share_ratio"))
    parts = [] if threshold is None else [f"{threshold:g}"]
    if ratio is not None and even_share is not None:
        parts.append(f"{ratio * even_share:.4f} ({ratio:g} times the even share of then)")
    return " or ".join(parts)


def _lasted(held: Held) -> str:
    patience = _or_unknown(held.patience)
    if not held.longest:
        return f"its counter stayed at 0 of {patience} checkpoints"
    return (
        f"its counter got to {held.longest} of {patience} checkpoints{_at(held.longest_step)}"
        f", now {held.now}"
    )


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def _or_unknown(value: object) -> str:
    return "?" if value is None else f"{value}"
