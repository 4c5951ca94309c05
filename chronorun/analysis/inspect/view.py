"""A run, or a file of decisions alone, as ``inspect`` shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chronorun.analysis.inspect.expert_story import Names, Story, gather_story, refuse_unknown
from chronorun.analysis.inspect.filters import Filters
from chronorun.analysis.inspect.timeline import Sink, Timeline
from chronorun.analysis.reading.fields import integer, mapping, plain, scalars, string
from chronorun.analysis.reading.gather import MOST_LAYERS, Gathered
from chronorun.analysis.reading.records import Decision, Judgement, Transition
from chronorun.analysis.reading.run import Run
from chronorun.analysis.reading.series import Series
from chronorun.core.run_files import MANIFEST
from chronorun.core.words import finite


@dataclass
class RunView(Gathered):
    """What is shown of a run."""

    path: str = ""
    status: str | None = None
    steps: int | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    first_val_loss: float | None = None
    alerts: int | None = None
    timeline: Timeline = field(default_factory=Timeline)
    story: Story | None = None

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


def scan_run(
    run: Run, filters: Filters, why: str | None = None, sink: Sink | None = None
) -> RunView:
    """Read a run's folder; ``sink`` is called with every action that is listed.

    Raises StorageError for a damaged log, UserError for an unknown ``why``.
    """
    view, names = RunView(path=str(run.folder)), Names()
    if why is not None:
        view.story = gather_story(run, why, lifecycle_config(run.json(MANIFEST)))
        for transition in run.typed("expert_transitions", Transition):
            names.add(transition.expert_id)
    view.read(run, _listing(view, filters, names, sink))
    _take_summary(view)
    _finish_story(view, names, run.folder)
    return view


def scan_decisions(
    path: Path, filters: Filters, why: str | None = None, sink: Sink | None = None
) -> RunView:
    """Read a decisions file alone. Raises as ``scan_run``."""
    view, names = RunView(path=str(path)), Names()
    if why is not None:
        view.story = Story(why)
    view.read_decisions(path, _listing(view, filters, names, sink))
    _finish_story(view, names, path)
    return view


def _listing(
    view: RunView, filters: Filters, names: Names, sink: Sink | None
) -> Callable[[Decision], None]:
    """Return what adds a decision to the view's timeline and story."""
    timeline, story, everything = view.timeline, view.story, not filters.active

    def add(d: Decision) -> None:
        if story is not None:
            names.add(d.expert_id, d.parent_id, d.partner_id)
            story.add_decision(d)
        if everything or filters.takes(d):
            timeline.add(d)
            if sink is not None:
                sink(d, view.judgement(d))

    return add


def _finish_story(view: RunView, names: Names, where: Path) -> None:
    story = view.story
    if story is None:
        return
    refuse_unknown(story, names, where)
    if not story.config:
        # Without a manifest the thresholds are those that the decisions name.
        found: dict[str, Any] = {}
        for decision in story.decisions:
            found |= scalars(decision.config_snapshot)
        story.config = found


def _take_summary(view: RunView) -> None:
    known = plain(view.summary)
    view.status = string(known, "status")
    view.steps, view.alerts = integer(known, "steps"), integer(known, "alerts_total")
    view.train_loss = _ended(known, "train_loss", view.train_losses)
    view.val_loss = _ended(known, "val_loss", view.val_losses)
    view.first_val_loss = view.val_losses.first if view.val_losses.count else None
    for layer, n in mapping(view.summary, "population").items():
        end = integer({"n": n}, "n")
        if layer.isdecimal() and end is not None and int(layer[:7]) in view.populations:
            view.populations[int(layer[:7])].end = end
    for layer_id, start in enumerate(_started(view.manifest)[:MOST_LAYERS]):
        population = view.populations.get(layer_id)
        if population is not None:
            population.start = start


def _ended(summary: Mapping[str, Any], name: str, logged: Series) -> float | None:
    ended = finite(summary.get(name))
    return logged.last if ended is None and logged.count else ended


def _started(manifest: Mapping[str, Any]) -> list[int]:
    counts = mapping(manifest, "architecture").get("n_experts_per_layer")
    if not isinstance(counts, list) or not all(type(n) is int for n in counts):
        return []
    return counts


def lifecycle_config(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the lifecycle's configuration as a run's manifest has it; empty where it has none."""
    lifecycle = mapping(mapping(manifest, "config"), "lifecycle")
    return {
        key: value
        for key, value in list(lifecycle.items())[:1000]
        if isinstance(value, bool) or finite(value) is not None
    }
