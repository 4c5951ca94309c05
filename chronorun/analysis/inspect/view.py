"""A run, or a decisions file alone, in one pass over each of its logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chronorun.analysis.inspect.filters import Filters
from chronorun.analysis.inspect.sparkline import Series
from chronorun.analysis.inspect.story import Names, Story, gather_story, refuse_unknown
from chronorun.analysis.inspect.timeline import Sink, Timeline
from chronorun.analysis.reading.lineage import Lineage
from chronorun.analysis.reading.records import (
    SCHEMA_VERSION,
    Decision,
    Judged,
    Judgement,
    Losses,
    Snapshot,
    Transition,
)
from chronorun.analysis.reading.run import Notices, Run, read_typed
from chronorun.analysis.reading.text import finite, plain, scalars
from chronorun.core.run_files import MANIFEST, SUMMARY

DECISIONS = "lifecycle_decisions"
MOST_LAYERS = 64
_MOST_JUDGEMENTS = 100_000


@dataclass
class Population:
    """One layer's number of experts over time."""

    series: Series = field(default_factory=Series)
    start: int | None = None
    end: int | None = None
    last_step: int = -1

    def add(self, step: int, n: int) -> None:
        """Add what a checkpoint or an edit says."""
        if self.start is None:
            self.start = n
        self.end, self.last_step = n, step
        self.series.add(step, n)


@dataclass
class RunView:
    """What is shown of a run."""

    path: str
    run_id: str = ""
    status: str | None = None
    steps: int | None = None
    first_step: int | None = None
    last_step: int | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    first_val_loss: float | None = None
    alerts: int | None = None
    tokens: int | None = None
    dry_run: bool = False
    timeline: Timeline = field(default_factory=Timeline)
    decisions: int = 0
    populations: dict[int, Population] = field(default_factory=dict)
    layers_left_out: bool = False
    lineage: Lineage = field(default_factory=Lineage)
    judgements: dict[int, Judgement] = field(default_factory=dict)
    story: Story | None = None
    val_losses: Series = field(default_factory=Series)
    notices: Notices = field(default_factory=Notices)

    def span(self, step: int | None) -> None:
        """Widen the steps that the logs cover."""
        if step is None:
            return
        if self.first_step is None or step < self.first_step:
            self.first_step = step
        if self.last_step is None or step > self.last_step:
            self.last_step = step

    def judgement(self, decision: Decision) -> Judgement | None:
        """Return what became of an edit."""
        if decision.seq is None or decision.dry_run:
            return None
        return self.judgements.get(decision.seq)

    def experts(self) -> set[str]:
        """Return the experts known by name: those a layer began with, and those of actions."""
        begun = {
            f"L{layer_id}_E{i}"
            for layer_id, p in self.populations.items()
            for i in range(min(p.start or 0, 10_000))
        }
        return begun | {expert_id for _, expert_id in self.lineage.experts}

    def population(self, layer_id: int) -> Population | None:
        """Return where a layer's numbers go; None beyond the most that are kept."""
        found = self.populations.get(layer_id)
        if found is None:
            if len(self.populations) >= MOST_LAYERS:
                self.layers_left_out = True
                return None
            found = self.populations[layer_id] = Population()
        return found


def scan_run(
    run: Run, filters: Filters, why: str | None = None, sink: Sink | None = None
) -> RunView:
    """Read a run's folder; ``sink`` is handed every action that is listed.

    Raises StorageError for a damaged log, UserError for an unknown ``why``.
    """
    view = RunView(str(run.folder), notices=run.notices)
    summary, manifest = run.json(SUMMARY), run.json(MANIFEST)
    names = Names()
    _read_losses(run, view)
    _read_snapshots(run, view)
    _read_judgements(run, view)
    if why is not None:
        view.story = gather_story(run, why, lifecycle_config(manifest))
        for transition in run.typed("expert_transitions", Transition):
            names.add(transition.expert_id)
    if run.path(DECISIONS).is_file():
        read_decisions(run.path(DECISIONS), view, filters, names, sink)
    _take_summary(view, summary, manifest)
    if view.story is not None:
        refuse_unknown(view.story, names, run.folder)
        _config_from_decisions(view.story)
    return view


def scan_decisions(
    path: Path, filters: Filters, why: str | None = None, sink: Sink | None = None
) -> RunView:
    """Read a decisions file alone. Raises as ``scan_run``."""
    view = RunView(str(path))
    names = Names()
    if why is not None:
        view.story = Story(why)
    read_decisions(path, view, filters, names, sink)
    if view.story is not None:
        refuse_unknown(view.story, names, path)
        _config_from_decisions(view.story)
    return view


def read_decisions(
    path: Path, view: RunView, filters: Filters, names: Names, sink: Sink | None
) -> None:
    """Read a decisions file into a view."""
    run_ids: set[str] = set()
    timeline, lineage, story = view.timeline, view.lineage, view.story
    everything = not filters.active
    # What follows is done for each of a million lines: no call that can be spared.
    for d in read_typed(path, Decision, view.notices):
        view.decisions += 1
        at = d.integrated_step if isinstance(d.integrated_step, int) else d.step
        if d.step is not None:
            view.span(d.step)
        if d.run_id not in run_ids and len(run_ids) < 5:
            run_ids.add(d.run_id)
        if d.schema_version != SCHEMA_VERSION:
            _note_version(view, path, d)
        if d.dry_run:
            view.dry_run = True
        elif d.integrated_step is not None:
            if d.experts_after and d.layer_id is not None:
                _follow_population(view, d, d.layer_id, at or 0)
            lineage.add(d, at or 0)
        if story is not None:
            names.add(d.expert_id, d.parent_id, d.partner_id)
            story.add_decision(d)
        if everything or filters.takes(d):
            timeline.add(d)
            if sink is not None:
                sink(d, view.judgement(d))
    view.run_id = view.run_id or next(iter(sorted(run_ids)), "")
    if len(run_ids) > 1:
        view.notices.add(f"{path} holds decisions of several runs; they are shown as one")


def _note_version(view: RunView, path: Path, d: Decision) -> None:
    view.notices.add(
        f"{path}: schema_version {d.schema_version} is not {SCHEMA_VERSION}, the one known here; "
        f"shown as far as it is understood"
    )


def _follow_population(view: RunView, d: Decision, layer_id: int, at: int) -> None:
    population = view.populations.get(layer_id) or view.population(layer_id)
    if population is None:
        return
    if population.start is None:
        population.add(min(0, at), len(d.before()) or len(d.experts_after))
    if at >= population.last_step:
        population.end, population.last_step = len(d.experts_after), at
        population.series.add(at, population.end)


def _read_losses(run: Run, view: RunView) -> None:
    for record in run.typed("metrics", Losses):
        view.span(record.step)
        _take_losses(view, record.step, record.train_loss, record.val_loss)


def _take_losses(
    view: RunView, step: int | None, train_loss: float | None, val_loss: float | None
) -> None:
    train, val = finite(train_loss), finite(val_loss)
    view.train_loss = view.train_loss if train is None else train
    if val is not None and step is not None:
        view.first_val_loss = val if view.first_val_loss is None else view.first_val_loss
        view.val_loss = val
        view.val_losses.add(step, val)


def _read_snapshots(run: Run, view: RunView) -> None:
    alone = not view.val_losses.count
    for record in run.typed("snapshots", Snapshot):
        view.span(record.step)
        view.run_id = view.run_id or record.run_id
        if alone:
            _take_losses(view, record.step, record.train_loss, record.val_loss)
        for layer in record.layers:
            if layer.layer_id is None or record.step is None:
                continue
            population = view.population(layer.layer_id)
            n = layer.num_experts or len(layer.utilization_shares)
            if population is not None and n > 0:
                population.add(record.step, n)


def _read_judgements(run: Run, view: RunView) -> None:
    for record in run.typed("lifecycle_evaluations", Judged):
        for judgement in record.judgements:
            if judgement.seq is not None and len(view.judgements) < _MOST_JUDGEMENTS:
                view.judgements[judgement.seq] = judgement


def _take_summary(view: RunView, summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    known = plain(summary)
    for said in (summary, manifest):
        if isinstance(said.get("run_id"), str):
            view.run_id = said["run_id"][:200]
            break
    status = known.get("status")
    view.status = status if isinstance(status, str) else None
    view.steps, view.tokens = _whole(known.get("steps")), _whole(known.get("tokens"))
    view.alerts = _whole(known.get("alerts_total"))
    train, val = finite(known.get("train_loss")), finite(known.get("val_loss"))
    view.train_loss = view.train_loss if train is None else train
    view.val_loss = view.val_loss if val is None else val
    ended = summary.get("population")
    for layer, n in ended.items() if isinstance(ended, Mapping) else ():
        end = _whole(n)
        if layer.isdecimal() and end is not None and int(layer[:7]) in view.populations:
            view.populations[int(layer[:7])].end = end
    for layer_id, start in enumerate(_started(manifest)[:MOST_LAYERS]):
        population = view.populations.get(layer_id)
        if population is not None:
            population.start = start


def _started(manifest: Mapping[str, Any]) -> list[int]:
    architecture = manifest.get("architecture")
    counts = architecture.get("n_experts_per_layer") if isinstance(architecture, Mapping) else None
    if not isinstance(counts, list) or not all(_whole(n) is not None for n in counts):
        return []
    return counts


def lifecycle_config(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the lifecycle's configuration as a run's manifest has it; empty where it has none."""
    config = manifest.get("config")
    lifecycle = config.get("lifecycle") if isinstance(config, Mapping) else None
    return _all_plain(lifecycle) if isinstance(lifecycle, Mapping) else {}


def _all_plain(lifecycle: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in list(lifecycle.items())[:1000]
        if isinstance(value, bool) or finite(value) is not None
    }


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _config_from_decisions(story: Story) -> None:
    """Let a story without a manifest read its thresholds from the decisions."""
    if not story.config:
        found: dict[str, Any] = {}
        for decision in story.decisions:
            found |= scalars(decision.config_snapshot)
        story.config = found
