"""The filters of ``inspect``: layers, experts, actions and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chronorun.analysis.reading.records import Decision
from chronorun.errors import UserError
from chronorun.lifecycle.record.telling import ACTIONS


@dataclass(frozen=True)
class Filters:
    """What to show; empty or None means everything. Steps are inclusive."""

    layers: frozenset[int] = frozenset()
    experts: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None

    @property
    def active(self) -> bool:
        """Return whether anything is left out."""
        return self != Filters()

    def takes(self, decision: Decision) -> bool:
        """Return whether a decision is listed."""
        d = decision
        named = (d.expert_id, d.parent_id, d.partner_id)
        return (
            self.takes_step(d.step)
            and (not self.layers or d.layer_id in self.layers)
            and (not self.actions or d.action in self.actions)
            and (not self.experts or any(name in self.experts for name in named))
        )

    def takes_step(self, step: int | None) -> bool:
        """Return whether a step lies between ``since`` and ``until``."""
        if self.since is None and self.until is None:
            return True
        if step is None or (self.since is not None and step < self.since):
            return False
        return self.until is None or step <= self.until

    def takes_layer(self, layer_id: int | None) -> bool:
        """Return whether a layer is shown."""
        return not self.layers or layer_id in self.layers

    def takes_record(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record of any log is counted; a field it lacks rules nothing out."""
        step, layer_id, expert_id = (record.get(k) for k in ("step", "layer_id", "expert_id"))
        return (
            self.takes_step(step if isinstance(step, int) else None)
            and (layer_id is None or not self.layers or layer_id in self.layers)
            and (expert_id is None or not self.experts or expert_id in self.experts)
        )


def make_filters(
    layers: Sequence[int],
    experts: Sequence[str],
    actions: Sequence[str],
    since: int | None,
    until: int | None,
) -> Filters:
    """Return the filters asked for. Raises UserError for an unknown action or an empty range."""
    named = [action.upper() for action in actions]
    for action in named:
        if action not in ACTIONS:
            raise UserError(
                f"inspect: --action {action.lower()}, expected one of "
                f"{', '.join(ACTIONS).lower()}; name one of them"
            )
    if since is not None and until is not None and since > until:
        raise UserError(
            f"inspect: --since {since} lies beyond --until {until}, expected since <= until; "
            f"swap the two"
        )
    return Filters(frozenset(layers), frozenset(experts), frozenset(named), since, until)
