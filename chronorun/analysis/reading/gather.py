"""One pass over the logs of a run, for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chronorun.analysis.reading.lineage import Lineage
from chronorun.analysis.reading.records import (
    SCHEMA_VERSION,
    Decision,
    Fate,
    Judged,
    Judgement,
    Losses,
    Snapshot,
)
from chronorun.analysis.reading.run import Notices, Run, read_typed
from chronorun.analysis.reading.series import Point, Series
from chronorun.core.run_files import DECISIONS, MANIFEST, SUMMARY
from chronorun.core.words import finite

MOST_LAYERS = 64
_MOST_JUDGEMENTS = 100_000
_MOST_KINDS = 100
Counts = dict[tuple[str, Fate], int]


@dataclass
class Population:
    """One layer's number of experts over time, by its snapshots and by its edits."""

    snapshots: Series = field(default_factory=Series)
    edits: Series = field(default_factory=Series)
    start: int | None = None
    end: int | None = None
    last_step: int = -1

    def add_snapshot(self, step: int, size: int) -> None:
        """Add the size at an evaluation, before its edits."""
        if not self.snapshots.count:
            self.start = size
        self.snapshots.add(step, size)
        if step > self.last_step:
            self.end, self.last_step = size, step

    def add_edit(self, at: int, decision: Decision) -> None:
        """Add the size after an edit."""
        after = len(decision.experts_after)
        if self.start is None:
            self.start = len(decision.before()) or after
            self.edits.add(min(0, at), self.start)
        if at >= self.last_step:
            self.edits.add(at, after)
            self.end, self.last_step = after, at

    def points(self) -> list[Point]:
        """Return the sizes by snapshots, then by the edits that came after the last of them."""
        if not self.snapshots.count:
            return self.edits.points()
        seen = self.snapshots.points()
        return [*seen, *(point for point in self.edits.points() if point[0] >= seen[-1][0])]


@dataclass
class Gathered:
    """A run as its logs have it."""

    notices: Notices = field(default_factory=Notices)
    run_id: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    first_step: int | None = None
    last_step: int | None = None
    train_losses: Series = field(default_factory=Series)
    val_losses: Series = field(default_factory=Series)
    decisions: int = 0
    populations: dict[int, Population] = field(default_factory=dict)
    layers_left_out: bool = False
    lineage: Lineage = field(default_factory=Lineage)
    judgements: dict[int, Judgement] = field(default_factory=dict)

    def read(
        self,
        run: Run,
        each_decision: Callable[[Decision], None],
        each_snapshot: Callable[[Snapshot], None] | None = None,
        between: Callable[[], None] | None = None,
    ) -> None:
        """Read decisions, then snapshots, ``between`` called between the two.

        Raises StorageError for a damaged log.
        """
        self.notices = run.notices
        self.summary, self.manifest = run.json(SUMMARY), run.json(MANIFEST)
        self._read_losses(run)
        self._read_judgements(run)
        if run.path(DECISIONS).is_file():
            self.read_decisions(run.path(DECISIONS), each_decision)
        if between is not None:
            between()
        self._read_snapshots(run, each_snapshot)
        for said in (self.summary, self.manifest):
            if isinstance(said.get("run_id"), str):
                self.run_id = said["run_id"][:200]
                break

    def read_decisions(self, path: Path, each: Callable[[Decision], None]) -> None:
        """Read a file of decisions; ``each`` is called with every one of them."""
        run_ids: set[str] = set()
        # What follows is done for each of a million lines: no call that can be spared.
        for d in read_typed(path, Decision, self.notices):
            self.decisions += 1
            at = d.integrated_step if isinstance(d.integrated_step, int) else d.step
            if d.step is not None:
                self.span(d.step)
            if d.run_id not in run_ids and len(run_ids) < 5:
                run_ids.add(d.run_id)
            if d.schema_version != SCHEMA_VERSION:
                self.notices.add(
                    f"{path}: schema_version {d.schema_version} is not {SCHEMA_VERSION}, the one "
                    f"known here; shown as far as it is understood"
                )
            if not d.dry_run and d.integrated_step is not None:
                if d.experts_after and d.layer_id is not None:
                    population = self.populations.get(d.layer_id) or self.population(d.layer_id)
                    if population is not None:
                        population.add_edit(at or 0, d)
                self.lineage.add(d, at or 0)
            each(d)
        self.run_id = next(iter(sorted(run_ids)), "")
        if len(run_ids) > 1:
            self.notices.add(f"{path} holds decisions of several runs; they are shown as one")

    def span(self, step: int | None) -> None:
        """Widen the steps that the logs cover."""
        if step is None:
            return
        if self.first_step is None or step < self.first_step:
            self.first_step = step
        if self.last_step is None or step > self.last_step:
            self.last_step = step

    def population(self, layer_id: int) -> Population | None:
        """Return where a layer's numbers go; None beyond the most that are kept."""
        found = self.populations.get(layer_id)
        if found is None:
            if len(self.populations) >= MOST_LAYERS:
                self.layers_left_out = True
                return None
            found = self.populations[layer_id] = Population()
        return found

    def _read_losses(self, run: Run) -> None:
        for record in run.typed("metrics", Losses):
            self.span(record.step)
            _add_losses(record, self.train_losses, self.val_losses)

    def _read_judgements(self, run: Run) -> None:
        for record in run.typed("lifecycle_evaluations", Judged):
            for judgement in record.judgements:
                known = judgement.seq is not None and finite(judgement.realised) is not None
                if known and len(self.judgements) < _MOST_JUDGEMENTS:
                    self.judgements[judgement.seq or 0] = judgement

    def _read_snapshots(self, run: Run, each: Callable[[Snapshot], None] | None) -> None:
        named = ""
        train, val = Series(), Series()
        for record in run.typed("snapshots", Snapshot):
            self.span(record.step)
            named = named or record.run_id
            _add_losses(record, train, val)
            for layer in record.layers:
                if layer.layer_id is None or record.step is None:
                    continue
                population = self.population(layer.layer_id)
                if population is not None and layer.size > 0:
                    population.add_snapshot(record.step, layer.size)
            if each is not None and record.step is not None:
                each(record)
        self.run_id = named or self.run_id
        # v2 wrote the losses into its snapshots.
        self.train_losses = self.train_losses if self.train_losses.count else train
        self.val_losses = self.val_losses if self.val_losses.count else val


def count(counts: Counts, decision: Decision) -> None:
    """Count an action by its name and what became of it, up to many names."""
    key = (decision.action, decision.fate)
    if key in counts:
        counts[key] += 1
    elif len(counts) < _MOST_KINDS:
        counts[key] = 1


def _add_losses(record: Losses | Snapshot, train: Series, val: Series) -> None:
    if record.step is None:
        return
    for series, loss in ((train, record.train_loss), (val, record.val_loss)):
        if (value := finite(loss)) is not None:
            series.add(record.step, value)
