"""Who came from whom, who went into whom, who came back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from chronorun.analysis.reading.records import Decision
from chronorun.core.words import shown
from chronorun.lifecycle.record.telling import natural

MOST_EXPERTS = 2000
"""Experts that are remembered, with 20 events each; later ones are only counted."""
_MOST_EVENTS = 20
_MOST_DEPTH = 12
Key = tuple[int | None, str]


@dataclass(slots=True)
class Event:
    """Something that happened to an expert; ``other`` is the expert it happened with."""

    step: int
    kind: str
    other: str | None = None

    def words(self) -> str:
        """Return the event for people."""
        other = "" if self.other is None else f" {shown(self.other, 40)}"
        return f"{self.kind}{other} at {self.step}"


@dataclass
class Relative:
    """One expert. ``born`` is None for one that was there from the start, or may have been."""

    layer_id: int | None
    expert_id: str
    parent_id: str | None = None
    born: int | None = None
    how: str = ""
    events: list[Event] = field(default_factory=list)

    def words(self) -> str:
        """Return the expert's life in a line."""
        origin = "" if self.born is None else f"{self.how} at {self.born}"
        told = ", ".join(filter(None, [origin, *(event.words() for event in self.events)]))
        return f"{shown(self.expert_id, 40)}  {told or 'from the start'}"

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


@dataclass
class Lineage:
    """The experts that something happened to, and those that they came from."""

    experts: dict[Key, Relative] = field(default_factory=dict)
    left_out: int = 0

    def add(self, decision: Decision, at: int) -> None:
        """Add an action, not one of a dry run, and the step at which shapes changed."""
        follow = _FOLLOWED.get(decision.action)
        if follow is not None and decision.expert_id:
            follow(self, decision, at)

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
        self, layer_id: int | None, expert_id: str, at: int, kind: str, other: str | None = None
    ) -> None:
        expert = self.experts.get((layer_id, expert_id)) or self._get(layer_id, expert_id)
        if expert is not None and len(expert.events) < _MOST_EVENTS:
            expert.events.append(Event(at, kind, other if other is None else other[:200]))

    def _birth(self, d: Decision, at: int) -> None:
        if len(self.experts) >= MOST_EXPERTS and (d.layer_id, d.expert_id) not in self.experts:
            self.left_out += 1
            return
        if d.parent_id is not None:
            self._get(d.layer_id, d.parent_id)
        expert = self._get(d.layer_id, d.expert_id)
        if expert is None:
            return
        verb = "split off" if d.action == "SPLIT" else "spawned"
        if expert.born is not None or expert.events:
            self._note(d.layer_id, d.expert_id, at, f"{verb} again")
            return
        expert.born, expert.how = at, verb
        expert.parent_id = d.parent_id[:200] if d.parent_id is not None else None

    def _prune(self, d: Decision, at: int) -> None:
        self._note(d.layer_id, d.expert_id, at, "pruned")

    def _revive(self, d: Decision, at: int) -> None:
        self._note(d.layer_id, d.expert_id, at, "revived")

    def _merge(self, d: Decision, at: int) -> None:
        self._note(d.layer_id, d.expert_id, at, "absorbed", d.partner_id or "another")
        if d.partner_id is not None:
            self._note(d.layer_id, d.partner_id, at, "merged into", d.expert_id)

    def _rollback(self, d: Decision, at: int) -> None:
        before, after = set(d.before()), set(d.experts_after)
        gone, back = before - after, after - before
        if not before or not after or gone == back:
            self._note(d.layer_id, d.expert_id, at, "rolled back")
            return
        for name in sorted(gone, key=natural):
            self._note(d.layer_id, name, at, "rolled back")
        for name in sorted(back, key=natural):
            self._note(d.layer_id, name, at, "brought back by rollback")

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

    def lines(self, layer_id: int | None, only: set[Key] | None, ascii_only: bool) -> Iterator[str]:
        """Yield one layer's tree, a line per expert."""
        children = self._children()
        keys = [k for k in self.experts if k[0] == layer_id and (only is None or k in only)]
        chosen = set(keys)
        keys.sort(key=lambda key: natural(key[1]))
        rooted = [k for k in keys if (layer_id, self.experts[k].parent_id) not in chosen]
        seen: set[Key] = set()
        # In a circle nobody is first: then all are tried in turn.
        for root in [*rooted, *keys]:
            yield from self._branch(root, chosen, children, seen, ascii_only)

    def _branch(
        self,
        root: Key,
        chosen: set[Key],
        children: dict[Key, list[Key]],
        seen: set[Key],
        ascii_only: bool,
    ) -> Iterator[str]:
        tee, elbow, bar = ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")
        waiting: list[tuple[Key, str, str]] = [(root, "", "")]
        while waiting:
            key, own, below = waiting.pop()
            if key in seen:
                continue
            seen.add(key)
            yield own + self.experts[key].words()
            below = below if len(below) < 3 * _MOST_DEPTH else below[: 3 * _MOST_DEPTH]
            young = [k for k in children.get(key, []) if k in chosen and k not in seen]
            young.sort(key=lambda k: (self.experts[k].born or 0, natural(k[1])))
            for index, child in reversed(list(enumerate(young))):
                last = index == len(young) - 1
                waiting.append(
                    (child, below + (elbow if last else tee), below + ("   " if last else bar))
                )


_FOLLOWED = {
    "SPAWN": Lineage._birth,
    "SPLIT": Lineage._birth,
    "PRUNE": Lineage._prune,
    "REVIVE": Lineage._revive,
    "MERGE": Lineage._merge,
    "ROLLBACK": Lineage._rollback,
}
