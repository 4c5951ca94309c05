"""Gathers what pictures of a run show, from all its logs: each is read once, and thinned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chronorun.analysis.reading.fields import (
    finite,
    integer,
    mapping,
    number,
    sequence,
    string,
    strings,
)
from chronorun.analysis.reading.run import Run
from chronorun.analysis.reading.thinning import Point, ThinnedColumns, ThinnedLine
from chronorun.analysis.report.edits import (
    Edit,
    Evaluation,
    Judgement,
    natural,
    read_edits,
    read_judgements,
)
from chronorun.core.run_files import MANIFEST, SUMMARY

MOST_LAYERS = 16
"""Layers that are drawn one by one; those with the most edits first."""
MOST_EXPERTS = 512
"""Experts of a layer whose shares are kept."""
MOST_EDITS = 20_000
"""Edits that are kept; beyond it they are only counted."""


@dataclass(frozen=True)
class Life:
    """One stretch of an expert's life; ``born`` is None where it was there from the start."""

    born: int | None
    born_by: str
    died: int | None = None
    died_by: str = ""


@dataclass
class LayerData:
    """What is drawn of one layer."""

    layer_id: int
    shares: ThinnedColumns = field(default_factory=ThinnedColumns)
    debt: ThinnedLine = field(default_factory=ThinnedLine)
    pressure: ThinnedLine = field(default_factory=ThinnedLine)
    lens_scale: ThinnedLine = field(default_factory=ThinnedLine)
    sizes: ThinnedLine = field(default_factory=ThinnedLine)
    experts: set[str] = field(default_factory=set)
    lives: dict[str, list[Life]] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)

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
        found: set[str] = set()
        for edit in self.edits:
            if edit.born or edit.died:
                found |= {*edit.born, *edit.died}
                found |= {name for name in (edit.parent_id, edit.partner_id) if name is not None}
                if edit.action == "MERGE":
                    found.add(edit.expert_id)
        return found


@dataclass
class RunData:
    """What is shown of a run."""

    summary: Mapping[str, Any]
    manifest: Mapping[str, Any]
    train_loss: ThinnedLine
    val_loss: ThinnedLine
    layers: dict[int, LayerData]
    layers_seen: int
    total: list[Point]
    edits: list[Edit]
    counts: Counter[str]
    judgements: dict[int, Judgement]
    scenario: list[tuple[int, str]]
    first_step: float
    last_step: float
    run_id: str


class _Gathering:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.counts: Counter[str] = Counter()
        self.edits: list[Edit] = []
        self.layers: dict[int, LayerData] = {}
        self.seen: set[int] = set()
        self.wanted: set[int] = set()
        self.train, self.val, self.total = ThinnedLine(), ThinnedLine(), ThinnedLine()
        self.steps: list[float] = []
        self.run_id: str | None = None

    def named(self, log: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a log, and learn the run's name from them."""
        for record in self.run.records(log):
            self.run_id = self.run_id or string(record, "run_id")
            yield record

    def span(self, step: float) -> None:
        """Widen the steps that are drawn."""
        if not self.steps:
            self.steps = [step, step]
        self.steps = [min(self.steps[0], step), max(self.steps[1], step)]

    def layer(self, layer_id: int) -> LayerData | None:
        """Return where a layer's data goes; None for one that is not drawn."""
        if len(self.seen) < 100_000:
            self.seen.add(layer_id)
        found = self.layers.get(layer_id)
        if found is None and (
            layer_id in self.wanted or len(self.wanted | set(self.layers)) < MOST_LAYERS
        ):
            found = self.layers[layer_id] = LayerData(layer_id)
        return found

    def read_decisions(self) -> None:
        for edit in read_edits(self.named("lifecycle_decisions")):
            self.counts[edit.kind] += 1
            self.span(edit.step)
            self.span(edit.at)
            if len(self.edits) < MOST_EDITS:
                self.edits.append(edit)
        most = Counter(e.layer_id for e in self.edits if e.layer_id is not None)
        self.wanted = {layer_id for layer_id, _ in most.most_common(MOST_LAYERS)}
        for edit in self.edits:
            if edit.layer_id is not None and (layer := self.layer(edit.layer_id)) is not None:
                layer.edits.append(edit)

    def read_snapshots(self) -> None:
        for record in self.named("snapshots"):
            step = integer(record, "step")
            if step is None:
                continue
            self.span(step)
            total = 0
            for item in sequence(record, "layers"):
                if isinstance(item, Mapping):
                    total += self._read_layer(step, item)
            if total:
                self.total.add(step, total)

    def _read_layer(self, step: int, item: Mapping[str, Any]) -> int:
        layer_id = integer(item, "layer_id")
        if layer_id is None:
            return 0
        shares = sequence(item, "utilization_shares")
        size = integer(item, "num_experts") or len(shares)
        layer = self.layer(layer_id)
        if layer is None:
            return size
        layer.sizes.add(step, size)
        ids = strings(item, "expert_ids")
        if len(ids) != len(shares):
            ids = [f"L{layer_id}_E{slot}" for slot in range(min(len(shares), MOST_EXPERTS))]
        found: dict[str, float] = {}
        for expert_id, value in zip(ids, shares, strict=False):
            share = finite(value)
            known = expert_id in layer.experts or len(layer.experts) < MOST_EXPERTS
            if share is not None and known:
                layer.experts.add(expert_id)
                found[expert_id] = min(max(share, 0.0), 1.0)
        if found:
            layer.shares.add(step, found)
        return size

    def read_control(self) -> None:
        for record in self.named("control_decisions"):
            step, layer_id = integer(record, "step"), integer(record, "layer_id")
            if step is None or layer_id is None or (layer := self.layer(layer_id)) is None:
                continue
            self.span(step)
            computed, actuator = mapping(record, "computed"), mapping(record, "actuator")
            for line, value in (
                (layer.debt, number(computed, "debt")),
                (layer.pressure, number(computed, "pressure")),
                (layer.lens_scale, number(actuator, "lens_scale")),
            ):
                if value is not None:
                    line.add(step, value)

    def read_losses(self) -> None:
        keys = (("metrics", "train/loss", "val/loss"), ("snapshots", "train_loss", "val_loss"))
        for log, train_key, val_key in keys:
            for record in self.run.records(log):
                step = integer(record, "step")
                if step is None:
                    continue
                self.span(step)
                for line, key in ((self.train, train_key), (self.val, val_key)):
                    value = number(record, key)
                    if value is not None:
                        line.add(step, value)
            if self.train.points() or self.val.points():
                return


def gather(run: Run) -> RunData:
    """Read all logs of a run. Raises StorageError for a log that is damaged."""
    g = _Gathering(run)
    g.read_decisions()
    g.read_snapshots()
    g.read_control()
    g.read_losses()
    for layer in g.layers.values():
        layer.lives = lives(layer)
    summary, manifest = run.json(SUMMARY), run.json(MANIFEST)
    named = string(summary, "run_id") or string(manifest, "run_id") or g.run_id
    first, last = g.steps or [0.0, 1.0]
    return RunData(
        summary=summary,
        manifest=manifest,
        train_loss=g.train,
        val_loss=g.val,
        layers=dict(sorted(g.layers.items())),
        layers_seen=len(g.seen),
        total=g.total.points(),
        edits=g.edits,
        counts=g.counts,
        judgements=read_judgements(run.typed("lifecycle_evaluations", Evaluation)),
        scenario=_scenario(run),
        first_step=0.0 if first * 2 <= last or first == last else first,
        last_step=max(last, 1.0),
        run_id=named or run.folder.name,
    )


def _scenario(run: Run) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for record in run.records("scenario_events"):
        step = integer(record, "step")
        if step is not None and len(found) < 200:
            words = (string(record, "scenario"), string(record, "event"))
            found.append((step, " ".join(word for word in words if word)))
    return found


def lives(layer: LayerData) -> dict[str, list[Life]]:
    """Return the stretches of life of each expert of a layer, from its edits."""
    found: dict[str, list[Life]] = {name: [Life(None, "")] for name in layer.experts}
    begun: set[str] = set()
    for edit in layer.edits:
        for name in (edit.parent_id, edit.partner_id, *edit.died):
            if name is not None:
                found.setdefault(name, [Life(None, "")])
        for name in edit.born:
            life = Life(edit.at, edit.letter)
            # Known from the first snapshot on or only from this birth on: the first edit tells.
            found[name] = [*found[name], life] if name in begun else [life]
        for name in edit.died:
            last = found[name][-1]
            if last.died is None:
                found[name][-1] = Life(last.born, last.born_by, edit.at, edit.letter)
        begun |= {*edit.born, *edit.died}
    return found
