"""A folder of runs, one row per run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chronorun.analysis.inspect.filters import Filters
from chronorun.analysis.inspect.view import RunView, scan_run
from chronorun.analysis.reading.records import Decision, Judgement
from chronorun.analysis.reading.run import Notices, Run
from chronorun.analysis.reading.series import Series
from chronorun.core.run_files import ARCHIVE, CHECKPOINTS, HYDRA, LOGS, TOKENIZER, log_file
from chronorun.errors import UserError

_DEPTH = 3
_NO_RUNS_IN = frozenset((CHECKPOINTS, ARCHIVE, TOKENIZER, "wandb", HYDRA))


@dataclass
class SweepView:
    """What is shown of a folder of runs."""

    path: str
    runs: list[RunView] = field(default_factory=list)
    notices: Notices = field(default_factory=Notices)


def run_folders(folder: Path) -> Iterator[Path]:
    """Yield the runs below a folder, by name; links (``outputs/run``) are not followed."""
    found = []
    for here, names, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        is_run = not {log_file(log) for log in LOGS}.isdisjoint(files)
        if is_run:
            found.append(Path(here))
        stop = is_run or depth >= _DEPTH
        names[:] = [] if stop else [name for name in names if name not in _NO_RUNS_IN]
    yield from sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    # 10-seed=9 comes after 9-seed=8.
    return [
        (int(number) if number.isdecimal() else -1, part)
        for part in path.parts
        for number in [part.partition("-")[0][:9]]
    ]


def scan_sweep(
    folder: Path,
    filters: Filters,
    sink: Callable[[str, Decision, Judgement | None], None] | None = None,
) -> SweepView:
    """Read all runs below a folder. Raises UserError where there is none."""
    view = SweepView(str(folder))
    for path in run_folders(folder):
        name = str(path.relative_to(folder))
        one = None if sink is None else _named(sink, name)
        run = scan_run(Run(path, view.notices), filters, sink=one)
        run.path = name
        view.runs.append(_slim(run))
    if not view.runs:
        raise UserError(
            f"inspect: {folder} holds no run, expected a folder with metrics.jsonl or "
            f"lifecycle_decisions.jsonl, or with such folders; name one such as outputs/run"
        )
    return view


def _named(
    sink: Callable[[str, Decision, Judgement | None], None], name: str
) -> Callable[[Decision, Judgement | None], None]:
    return lambda decision, judgement: sink(name, decision, judgement)


def _slim(run: RunView) -> RunView:
    """Drop what a row of the sweep does not show."""
    run.judgements.clear()
    run.summary = run.manifest = {}
    run.train_losses = run.val_losses = Series()
    run.lineage.experts.clear()
    run.timeline.head.clear()
    run.timeline.tail.clear()
    for population in run.populations.values():
        population.snapshots = population.edits = Series()
    return run
