"""What reports and plots of a run show: its logs, each read once, and thinned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.analysis.reading.gather import Counts, Gathered, count
from chronorun.analysis.reading.lineage import Life, Lineage
from chronorun.analysis.reading.records import (
    Control,
    Decision,
    Judgement,
    LayerShares,
    ScenarioEvent,
    Snapshot,
)
from chronorun.analysis.reading.run import Run
from chronorun.analysis.reading.series import Point, Series, ThinnedColumns
from chronorun.analysis.report.edits import Edit, kind_of
from chronorun.core.words import finite
from chronorun.lifecycle.record.telling import natural

MOST_LAYERS = 16
"""Layers that are drawn one by one; those with the most edits first."""
MOST_EXPERTS = 512
"""Experts of a layer whose shares are kept."""
MOST_EDITS = 20_000
"""Edits that are kept; further ones are only counted."""
_MOST_EVENTS = 200


@dataclass
class LayerData:
    """What is drawn of one layer."""

    layer_id: int
    shares: ThinnedColumns = field(default_factory=ThinnedColumns)
    debt: Series = field(default_factory=Series)
    pressure: Series = field(default_factory=Series)
    lens_scale: Series = field(default_factory=Series)
    sizes: Series = field(default_factory=Series)
    experts: set[str] = field(default_factory=set)
    edits: list[Edit] = field(default_factory=list)
    lineage: Lineage = field(default_factory=Lineage)

    @property
    def lives(self) -> dict[str, list[Life]]:
        """Return the stretches of life of each expert."""
        found = {name: [Life(None, "")] for name in self.experts}
        relatives = (self.lineage.experts[key] for key in self._keys())
        return found | {expert.expert_id: expert.lives() for expert in relatives}

    def _keys(self) -> list[tuple[int | None, str]]:
        return [key for key in self.lineage.experts if key[0] == self.layer_id]

    def population(self) -> list[Point]:
        """Return the number of live experts over time, edits after a checkpoint included."""
        changes: list[Point] = []
        for edit in self.edits:
            if not (edit.dry_run or edit.unfinished) and edit.experts_after is not None:
                changes.append((float(edit.at), float(edit.experts_after)))
        points = self.sizes.points()
        if not points and changes:
            first = self.edits[0]
            points = [(0.0, float(first.experts_before or changes[0][1]))]
        # A checkpoint counts before its edits: a stable sort keeps that order.
        return sorted([*points, *changes], key=lambda point: point[0])

    def rows(self, most: int) -> list[str]:
        """Return the experts worth a row: those with a story, then the most used; in order."""
        peak: dict[str, float] = {}
        for column in self.shares.columns:
            for expert_id, share in column.shares().items():
                peak[expert_id] = max(peak.get(expert_id, 0.0), share)
        storied = self.storied()
        everyone = sorted(self.experts | set(self.lives), key=natural)
        ranked = sorted(everyone, key=lambda name: (name not in storied, -peak.get(name, 0.0)))
        return sorted(ranked[:most], key=natural)

    def storied(self) -> set[str]:
        """Return the experts that came or went, and those that they came from or went into."""
        return {name for _, name in self._keys()}

    def family(self, most: int) -> list[str]:
        """Return the experts with a story, each followed by its children."""
        tree = self.lineage.tree(self.layer_id)
        return [branch.expert.expert_id for branch, _ in zip(tree, range(most), strict=False)]


@dataclass
class RunData:
    """What is shown of a run."""

    summary: Mapping[str, Any]
    manifest: Mapping[str, Any]
    train_loss: Series
    val_loss: Series
    layers: dict[int, LayerData]
    layers_seen: int
    edits: list[Edit]
    counts: Counter[str]
    judgements: dict[int, Judgement]
    scenario: list[tuple[int, str]]
    first_step: float
    last_step: float
    run_id: str


class _Drawing:
    """Collects decisions, then snapshots and control decisions, of the layers that are drawn."""

    def __init__(self) -> None:
        self.gathered = Gathered()
        self.edits: list[Edit] = []
        self.counts: Counts = {}
        self.layers: dict[int, LayerData] = {}
        self.seen: set[int] = set()

    def layer(self, layer_id: int) -> LayerData | None:
        """Return where a layer's data goes; None for one that is not drawn."""
        if len(self.seen) < 100_000:
            self.seen.add(layer_id)
        if layer_id not in self.layers and len(self.layers) < MOST_LAYERS:
            self.layers[layer_id] = LayerData(layer_id, lineage=self.gathered.lineage)
        return self.layers.get(layer_id)

    def add_decision(self, decision: Decision) -> None:
        if decision.step is not None and decision.action:
            self.gathered.span(decision.at)
            count(self.counts, decision)
            if len(self.edits) < MOST_EDITS:
                self.edits.append(Edit.of(decision))

    def choose_layers(self) -> None:
        """Take the layers with the most edits, before any other."""
        most = Counter(edit.layer_id for edit in self.edits if edit.layer_id is not None)
        for layer_id, _ in most.most_common():
            self.layer(layer_id)
        for edit in self.edits:
            if edit.layer_id in self.layers:
                self.layers[edit.layer_id].edits.append(edit)

    def add_snapshot(self, snapshot: Snapshot) -> None:
        for item in snapshot.layers:
            layer = None if item.layer_id is None else self.layer(item.layer_id)
            if layer is not None and snapshot.step is not None:
                _add_shares(layer, snapshot.step, item)

    def read_control(self, run: Run) -> None:
        for record in run.typed("control_decisions", Control):
            layer = None if record.layer_id is None else self.layer(record.layer_id)
            if record.step is None or layer is None:
                continue
            self.gathered.span(record.step)
            for line, value in (
                (layer.debt, finite(record.computed.debt)),
                (layer.pressure, finite(record.computed.pressure)),
                (layer.lens_scale, finite(record.actuator.lens_scale)),
            ):
                if value is not None:
                    line.add(record.step, value)


def _add_shares(layer: LayerData, step: int, item: LayerShares) -> None:
    layer.sizes.add(step, item.size)
    ids, shares = item.expert_ids or [], item.utilization_shares
    if len(ids) != len(shares):
        ids = [f"L{layer.layer_id}_E{slot}" for slot in range(min(len(shares), MOST_EXPERTS))]
    found: dict[str, float] = {}
    for name, value in zip((name[:200] for name in ids), shares, strict=False):
        share = finite(value)
        known = name in layer.experts or len(layer.experts) < MOST_EXPERTS
        if share is not None and known:
            layer.experts.add(name)
            found[name] = min(max(share, 0.0), 1.0)
    if found:
        layer.shares.add(step, found)


def gather(run: Run) -> RunData:
    """Read all logs of a run. Raises StorageError for a log that is damaged."""
    drawing = _Drawing()
    g = drawing.gathered
    g.read(run, drawing.add_decision, drawing.add_snapshot, drawing.choose_layers)
    drawing.read_control(run)
    first, last = float(g.first_step or 0), float(1 if g.last_step is None else g.last_step)
    return RunData(
        summary=g.summary,
        manifest=g.manifest,
        train_loss=g.train_losses,
        val_loss=g.val_losses,
        layers=dict(sorted(drawing.layers.items())),
        layers_seen=len(drawing.seen),
        edits=drawing.edits,
        counts=Counter({kind_of(*key): n for key, n in drawing.counts.items()}),
        judgements=g.judgements,
        scenario=_scenario(run),
        first_step=0.0 if first * 2 <= last or first == last else first,
        last_step=max(last, 1.0),
        run_id=g.run_id or run.folder.name,
    )


def _scenario(run: Run) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for event in run.typed("scenario_events", ScenarioEvent):
        if event.step is not None and len(found) < _MOST_EVENTS:
            words = (event.scenario[:200], event.event[:200])
            found.append((event.step, " ".join(word for word in words if word)))
    return found
