"""The descent of a run's experts: births, merges, removals and returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from chronorun.analysis.reading.records import Decision
from chronorun.core.words import shown
from chronorun.lifecycle.record.telling import LETTERS, natural

MOST_EXPERTS = 2000
"""Experts that are remembered, with 20 events each; later ones are only counted."""
_MOST_EVENTS = 20
_MOST_DEPTH = 12
Key = tuple[int | None, str]


Change = Literal["came", "went", ""]
_KINDS: Mapping[tuple[str, Change], str] = {
    ("SPAWN", "came"): "spawned",
    ("SPLIT", "came"): "split off",
    ("REVIVE", "came"): "revived",
    ("PRUNE", "went"): "pruned",
    ("MERGE", "went"): "merged into",
    ("MERGE", ""): "absorbed",
    ("ROLLBACK", "came"): "brought back by rollback",
    ("ROLLBACK", "went"): "rolled back",
    ("ROLLBACK", ""): "rolled back",
}


class Event(NamedTuple):
    """Something that happened to an expert; ``other`` is the expert it happened with."""

    step: int
    action: str
    change: Change
    kind: str
    other: str | None = None

    def words(self) -> str:
        """Return the event for people."""
        other = "" if self.other is None else f" {shown(self.other, 40)}"
        return f"{self.kind}{other} at {self.step}"


class Life(NamedTuple):
    """One stretch of an expert's life, with the letters of the edits that began and ended it.

    ``born`` is None where it was there from the start.
    """

    born: int | None
    born_by: str
    died: int | None = None
    died_by: str = ""


@dataclass
class Relative:
    """One expert. ``born`` is None for one that was there from the start, or may have been."""

    layer_id: int | None
    expert_id: str
    parent_id: str | None = None
    born: int | None = None
    born_by: str = ""
    events: list[Event] = field(default_factory=list)

    @property
    def how(self) -> str:
        """Return the kind of its birth; empty where none is known."""
        return _KINDS[(self.born_by, "came")] if self.born_by else ""

    def words(self) -> str:
        """Return the expert's life in a line."""
        origin = "" if self.born is None else f"{self.how} at {self.born}"
        told = ", ".join(filter(None, [origin, *(event.words() for event in self.events)]))
        return f"{shown(self.expert_id, 40)}  {told or 'from the start'}"

    def lives(self) -> list[Life]:
        """Return the stretches of its life."""
        found = [Life(self.born, LETTERS.get(self.born_by, ""))]
        known = self.born is not None
        for event in self.events:
            letter = LETTERS.get(event.action, "?")
            if event.change == "came":
                # The first thing known of an expert may be that it came back.
                found = [*(found if known else ()), Life(event.step, letter)]
            elif event.change == "went" and found[-1].died is None:
                found[-1] = found[-1]._replace(died=event.step, died_by=letter)
            known = known or event.change != ""
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the expert for programs."""
        return {
            "layer_id": self.layer_id,
            "expert_id": self.expert_id,
            "parent_id": self.parent_id,
            "born_step": self.born,
            "born_by": self.how or None,
            "events": [{"step": e.step, "kind": e.kind, "other": e.other} for e in self.events],
        }


class Branch(NamedTuple):
    """An expert in its layer's tree; for it and each ancestor whether it is the last child."""

    expert: Relative
    place: tuple[bool, ...]


@dataclass
class Lineage:
    """The experts that something happened to, and those that they came from."""

    experts: dict[Key, Relative] = field(default_factory=dict)
    left_out: int = 0

    def add(self, decision: Decision, at: int) -> None:
        """Add an action, not one of a dry run, and the step at which shapes changed."""
        d = decision
        if not d.expert_id:
            return
        if d.action in ("SPAWN", "SPLIT"):
            self._birth(d, at)
            return
        if d.action == "MERGE":
            self._note(d, d.expert_id, at, "", d.partner_id or "another")
        if d.action == "PRUNE":
            self._note(d, d.expert_id, at, "went")
            return
        came, went = d.came_and_went()
        for name in went:
            self._note(d, name, at, "went", d.expert_id if d.action == "MERGE" else None)
        for name in came:
            self._note(d, name, at, "came")
        if d.action == "ROLLBACK" and not (came or went):
            self._note(d, d.expert_id, at, "")

    def _get(self, layer_id: int | None, expert_id: str) -> Relative | None:
        found = self.experts.get((layer_id, expert_id))
        if found is None:
            if len(self.experts) >= MOST_EXPERTS:
                self.left_out += 1
                return None
            name = expert_id[:200]
            found = self.experts[(layer_id, name)] = Relative(layer_id, name)
        return found

    def _note(
        self, d: Decision, expert_id: str, at: int, change: Change, other: str | None = None
    ) -> None:
        expert = self.experts.get((d.layer_id, expert_id)) or self._get(d.layer_id, expert_id)
        if expert is not None and len(expert.events) < _MOST_EVENTS:
            kind = _KINDS[(d.action, change)]
            name = other if other is None else other[:200]
            expert.events.append(Event(at, d.action, change, kind, name))

    def _birth(self, d: Decision, at: int) -> None:
        if len(self.experts) >= MOST_EXPERTS and (d.layer_id, d.expert_id) not in self.experts:
            self.left_out += 1
            return
        if d.parent_id is not None:
            self._get(d.layer_id, d.parent_id)
        expert = self._get(d.layer_id, d.expert_id)
        if expert is None:
            return
        if expert.born is not None or expert.events:
            if len(expert.events) < _MOST_EVENTS:
                kind = f"{_KINDS[(d.action, 'came')]} again"
                expert.events.append(Event(at, d.action, "came", kind))
            return
        expert.born, expert.born_by = at, d.action
        expert.parent_id = d.parent_id[:200] if d.parent_id is not None else None

    def family(self, names: Collection[str]) -> set[Key]:
        """Return the experts of those names, their ancestors and their descendants."""
        children = self._children()
        found: set[Key] = set()
        for start in [key for key in self.experts if key[1] in names]:
            found |= self._walk(start, children) | self._ancestors(start)
        return found

    def _ancestors(self, start: Key) -> set[Key]:
        found: set[Key] = set()
        key: Key | None = start
        while key is not None and key in self.experts and key not in found:
            found.add(key)
            above = self.experts[key].parent_id
            key = None if above is None else (key[0], above)
        return found

    def _children(self) -> dict[Key, list[Key]]:
        children: dict[Key, list[Key]] = defaultdict(list)
        for key, expert in self.experts.items():
            if expert.parent_id is not None:
                children[(expert.layer_id, expert.parent_id)].append(key)
        return children

    def _walk(self, start: Key, children: dict[Key, list[Key]]) -> set[Key]:
        found: set[Key] = set()
        waiting = [start]
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting += children.get(key, [])
        return found

    def tree(self, layer_id: int | None, only: set[Key] | None = None) -> Iterator[Branch]:
        """Yield one layer's experts, each followed by its children."""
        children = self._children()
        keys = [k for k in self.experts if k[0] == layer_id and (only is None or k in only)]
        chosen = set(keys)
        keys.sort(key=lambda key: natural(key[1]))
        rooted = [k for k in keys if (layer_id, self.experts[k].parent_id) not in chosen]
        seen: set[Key] = set()
        # In a circle no expert is first: then all are tried in turn.
        for root in [*rooted, *keys]:
            waiting: list[tuple[Key, tuple[bool, ...]]] = [(root, ())]
            while waiting:
                key, place = waiting.pop()
                if key in seen:
                    continue
                seen.add(key)
                yield Branch(self.experts[key], place)
                young = [k for k in children.get(key, []) if k in chosen and k not in seen]
                young.sort(key=lambda k: (self.experts[k].born or 0, natural(k[1])))
                place = place[:_MOST_DEPTH]
                waiting += [(child, (*place, child == young[-1])) for child in reversed(young)]

    def lines(self, layer_id: int | None, only: set[Key] | None, ascii_only: bool) -> Iterator[str]:
        """Yield one layer's tree, a line per expert."""
        tee, elbow, bar = ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")
        for expert, place in self.tree(layer_id, only):
            above = "".join("   " if last else bar for last in place[:-1])
            own = (elbow if place[-1] else tee) if place else ""
            yield f"{above}{own}{expert.words()}"
