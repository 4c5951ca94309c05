"""Structural actions as the report shows them: ours, or records of the published fields only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from chronorun.analysis.reading.fields import (
    integer,
    mapping,
    number,
    plain,
    string,
    strings,
)
from chronorun.lifecycle.record.telling import BIRTHS, LETTERS, evidence

UNFINISHED = " (not carried out)"


@dataclass(frozen=True, slots=True)
class Edit:
    """One decision; ``born`` and ``died`` name the experts that it brought and took.

    ``at`` is the step at which the shapes changed, ``unfinished`` says that they had not when the
    run ended (a record of the published fields alone tells of what was done), ``shock`` the probe
    loss after the edit over that before, minus 1; benefits are in nats of probe loss, below zero
    where the edit helps.
    """

    step: int
    at: int
    action: str
    layer_id: int | None
    expert_id: str
    parent_id: str | None
    partner_id: str | None
    reason: str
    evidence: str
    born: tuple[str, ...]
    died: tuple[str, ...]
    experts_before: int | None
    experts_after: int | None
    seq: int | None
    undoes: int | None
    dry_run: bool
    unfinished: bool
    shock: float | None
    output_change: float | None
    predicted: float | None

    @property
    def kind(self) -> str:
        """Return the action's name, marked where it was not carried out."""
        if self.dry_run:
            return f"would {self.action}"
        return f"{self.action}{UNFINISHED}" if self.unfinished else self.action

    @property
    def letter(self) -> str:
        """Return the action's mark."""
        return LETTERS.get(self.action, "?")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the probe said of an edit at the end of its probation, in nats."""

    realised: float
    harmful: bool


def read_edits(records: Iterable[dict[str, Any]]) -> Iterator[Edit]:
    """Yield the decisions that have a step and an action."""
    named: dict[int, frozenset[str]] = {}
    for record in records:
        step, action = integer(record, "step"), string(record, "action")
        if step is None or action is None:
            continue
        seq, undoes = integer(record, "seq"), integer(record, "undoes")
        own = frozenset(
            name
            for key in ("expert_id", "parent_id", "partner_id")
            if (name := string(record, key)) is not None
        )
        if seq is not None:
            named[seq] = own
        concerned = own if undoes is None else own | named.get(undoes, frozenset())
        yield _edit(record, step, action, seq, undoes, concerned)


def _edit(
    record: Mapping[str, Any],
    step: int,
    action: str,
    seq: int | None,
    undoes: int | None,
    concerned: frozenset[str],
) -> Edit:
    at = integer(record, "integrated_step")
    before, after = strings(record, "experts_before"), strings(record, "experts_after")
    dry_run = record.get("dry_run") is True
    unfinished = not dry_run and "integrated_step" in record and at is None
    born, died = _changes(record, action, before, after, concerned)
    if dry_run or unfinished:
        born, died = (), ()
    receipt = mapping(record, "receipt")
    return Edit(
        step=step,
        at=step if at is None else at,
        action=action,
        layer_id=integer(record, "layer_id"),
        expert_id=string(record, "expert_id") or "?",
        parent_id=string(record, "parent_id"),
        partner_id=string(record, "partner_id"),
        reason=string(record, "reason") or "",
        evidence=evidence(
            action,
            plain(mapping(record, "metrics_at_decision")),
            plain(mapping(record, "config_snapshot")),
            undoes,
        ),
        born=born,
        died=died,
        experts_before=len(before) or None,
        experts_after=len(after) or None,
        seq=seq,
        undoes=undoes,
        dry_run=dry_run,
        unfinished=unfinished,
        shock=number(receipt, "probe_shock"),
        output_change=number(receipt, "output_change"),
        predicted=number(mapping(record, "metrics_at_decision"), "predicted_benefit"),
    )


def _changes(
    record: Mapping[str, Any],
    action: str,
    before: list[str],
    after: list[str],
    concerned: frozenset[str],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return who came and who went; from the action where the record lists no population."""
    if before and after:
        came, went = set(after) - set(before), set(before) - set(after)
        return tuple(sorted(came & concerned)), tuple(sorted(went & concerned))
    expert_id, partner_id = string(record, "expert_id"), string(record, "partner_id")
    if action in BIRTHS and expert_id is not None:
        return (expert_id,), ()
    if action == "PRUNE" and expert_id is not None:
        return (), (expert_id,)
    if action == "MERGE" and partner_id is not None:
        return (), (partner_id,)
    return (), ()


class Evaluation(msgspec.Struct):
    """What is read of a line of ``lifecycle_evaluations.jsonl``; its signals are passed over."""

    judgements: list[Any] = msgspec.field(default_factory=list)


def read_judgements(records: Iterable[Evaluation]) -> dict[int, Judgement]:
    """Return what became of the edits, by the number of the decision."""
    found = {}
    for record in records:
        for item in record.judgements:
            if not isinstance(item, Mapping):
                continue
            seq, realised = integer(item, "seq"), number(item, "realised_benefit")
            if seq is not None and realised is not None:
                found[seq] = Judgement(realised, item.get("harmful") is True)
    return found
