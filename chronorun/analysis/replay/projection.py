"""The signals of another history: what a layer might have looked like, had other edits been made.

Only for what follows the first different edit; nobody measured that. Whom the other history had
removed is left out. Whom it had not removed stays as dormant as it was. A child that it had not
split off leaves its share to its parent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from chronorun.lifecycle.decide.actions import Action, Candidate, Verdict
from chronorun.lifecycle.decide.signals import ExpertSignals, LayerSignals
from chronorun.lifecycle.experts.states import ExpertState

BIRTHS = (Action.SPLIT, Action.SPAWN)


@dataclass
class OtherHistory:
    """Whom another history had, as against the logged one."""

    gone: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    last_seen: dict[str, ExpertSignals] = field(default_factory=dict)
    births: Counter[str] = field(default_factory=Counter)
    other_births: Counter[str] = field(default_factory=Counter)
    born: dict[str, tuple[str, int]] = field(default_factory=dict)

    def see(self, signals: Iterable[LayerSignals]) -> None:
        """Remember how the experts were."""
        for s in signals:
            self.last_seen.update((e.expert_id, e) for e in s.experts)

    def logged(self, verdicts: Iterable[Verdict]) -> None:
        """Take note of the edits that were made."""
        for c in (v.candidate for v in verdicts):
            if c.action is Action.PRUNE:
                self.removed.add(c.expert_id)
            elif c.action is Action.REVIVE:
                self.removed.discard(c.expert_id)
            elif c.action in BIRTHS:
                self.births[c.key] += 1
                self.born[c.expert_id] = (c.key, self.births[c.key])

    def other(self, verdicts: Iterable[Verdict]) -> None:
        """Take note of the edits that would have been made."""
        for c in (v.candidate for v in verdicts):
            if c.action in BIRTHS:
                self.other_births[c.key] += 1
            elif c.action is Action.REVIVE:
                self.gone.discard(c.expert_id)
            else:
                self.gone |= _leavers(c)

    def adapt(self, s: LayerSignals) -> LayerSignals:
        """Return the signals of a layer as they might have been."""
        unborn = {e.expert_id: e for e in s.experts if not self._is_born(e.expert_id)}
        kept = [
            self._as_it_was(e, unborn.values())
            for e in s.experts
            if e.expert_id not in unborn and e.expert_id not in self.gone
        ]
        there = {e.expert_id for e in s.experts}
        kept += [
            replace(self.last_seen[name], state=ExpertState.dormant, share=0.0, overflow=0.0)
            for name in sorted(self.removed - self.gone - there)
            if name in self.last_seen and name.startswith(f"L{s.layer_id}_")
        ]
        names = {e.expert_id for e in kept}
        return replace(
            s,
            experts=[e if e.twin_of in names else replace(e, twin_of=None) for e in kept],
            pairs=[p for p in s.pairs if p.first in names and p.second in names],
            cluster=[name for name in s.cluster if name in names],
            archive_matches=[m for m in s.archive_matches if m.expert_id not in names],
        )

    def _is_born(self, expert_id: str) -> bool:
        key, count = self.born.get(expert_id, ("", 0))
        return self.other_births[key] >= count

    def _as_it_was(self, e: ExpertSignals, unborn: Iterable[ExpertSignals]) -> ExpertSignals:
        if e.state is ExpertState.pending_prune:
            return replace(e, state=ExpertState.dormant, share=0.0, ramping=False)
        children = sum(
            child.share
            for child in unborn
            if child.parent_id == e.expert_id and self.born[child.expert_id][0].startswith("SPLIT")
        )
        return replace(e, share=e.share + children) if children else e


def _leavers(c: Candidate) -> set[str]:
    if c.action is Action.MERGE and c.partner_id is not None:
        return {c.partner_id}
    # What a rollback undoes, a birth nearly always, is not told by the candidate.
    return {c.expert_id} if c.action is Action.PRUNE else set()
