"""Figures of one finished run, for comparison with others: read from its folder alone.

None stands for what a run cannot tell: a metric of a log that it did not write, a recovery that did
not come within it, an event that there was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from chronorun.analysis.reading.fields import number, scalars
from chronorun.analysis.reading.records import Decision, Judged, Refused, Snapshot
from chronorun.analysis.reading.run import T, read_typed
from chronorun.bench.evidence.compute import compute_figures
from chronorun.bench.evidence.course import Course, read_course
from chronorun.bench.evidence.events import excess_and_recovery
from chronorun.config.saved import typed_config
from chronorun.core.jsonl import BYTE_ORDER_MARK
from chronorun.core.run_files import CONFIG, SUMMARY, log_file
from chronorun.errors import ChronorunError, StorageError
from chronorun.lifecycle.record.telling import ACTIONS

Figures = dict[str, float | None]
_REFUSED = {"deferrals": "deferred", "blocked": "blocked"}


def run_metrics(run_dir: Path) -> Figures:
    """Return what a run ended with and went through; equal runs give equal figures.

    Losses are in nats per token, benefits in nats of probe loss (below 0 the edit helped), counts
    over the whole run; what is put off or blocked counts at each checkpoint anew. Populations are
    experts per layer. Raises StorageError for a folder without a readable summary.json or
    config.yaml, or with a log that is damaged.
    """
    summary, config = _summary(run_dir), _config(run_dir)
    course = read_course(run_dir / log_file("metrics"))
    figures: Figures = {
        "val_loss": _number(summary.get("val_loss")),
        "val_loss_per_byte": _number(summary.get("val_loss_per_byte")),
        "val_loss_auc": course.area(),
    }
    domains = summary.get("val_loss_by_domain") or {}
    figures |= {f"val_loss/{name}": _number(loss) for name, loss in domains.items()}
    figures |= excess_and_recovery(run_dir / log_file("scenario_events"), course)
    figures |= _health(run_dir, course)
    figures |= _edits(run_dir, summary, managed=bool(config.lifecycle.enabled))
    figures |= compute_figures(run_dir / log_file("scenario_events"), summary, config, course)
    return figures


def wall_figures(run_dir: Path) -> Figures:
    """Return what differs between equal runs: seconds, and tokens per second of training."""
    summary = _summary(run_dir)
    return {
        "seconds": _number(summary.get("wall_seconds")),
        "tokens_per_second": _number(summary.get("tokens_per_second")),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _summary(run_dir: Path) -> dict[str, Any]:
    path = run_dir / SUMMARY
    try:
        found = msgspec.json.decode(
            path.read_bytes().removeprefix(BYTE_ORDER_MARK), type=dict[str, Any]
        )
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(
            f"bench: {path} cannot be read, expected the summary of a finished run; run the job "
            f"again"
        ) from error
    return found


def _config(run_dir: Path) -> Any:
    try:
        return typed_config(run_dir, "bench")
    except ChronorunError as error:
        raise StorageError(
            f"bench: {run_dir / CONFIG} cannot be read, expected the configuration of a run; "
            f"run the job again"
        ) from error


# ---- routing ---------------------------------------------------------------------------------


@dataclass
class _Loads:
    """Maximal violation per checkpoint, and dead experts times steps."""

    max_vio: list[float] = field(default_factory=list)
    dead_steps: float = 0.0


def _health(run_dir: Path, course: Course) -> Figures:
    loads = _loads(run_dir / log_file("snapshots"))
    n_eff, dropped = course.layer_means("n_effective"), course.layer_means("dropped_fraction")
    known = loads is not None and loads.max_vio
    return {
        "n_effective": n_eff[-1] if n_eff else None,
        "n_effective_mean": fmean(n_eff) if n_eff else None,
        "max_vio": loads.max_vio[-1] if loads and known else None,
        "max_vio_mean": fmean(loads.max_vio) if loads and known else None,
        "dead_expert_steps": loads.dead_steps if loads else None,
        "dropped_fraction": fmean(dropped) if dropped else None,
    }


def _loads(path: Path) -> _Loads | None:
    """Return MaxVio of Wang et al. 2024 (arXiv:2408.15664): largest load over the mean, less 1."""
    if not path.is_file():
        return None
    loads, last = _Loads(), 0
    for record in read_typed(path, Snapshot):
        shares = [[s or 0.0 for s in layer.utilization_shares] for layer in record.layers]
        full = [max(s) * len(s) - 1.0 for s in shares if any(s)]
        if full:
            loads.max_vio.append(fmean(full))
        step = last if record.step is None else record.step
        loads.dead_steps += (step - last) * sum(x.dead_expert_count for x in record.layers)
        last = step
    return loads


# ---- edits -----------------------------------------------------------------------------------


def _edits(run_dir: Path, summary: Mapping[str, Any], *, managed: bool) -> Figures:
    counts = summary.get("lifecycle", None if managed else {})
    figures: Figures = {f"edits/{a}": None if counts is None else counts.get(a, 0) for a in ACTIONS}
    figures["edits"] = None if counts is None else sum(counts.get(a, 0) for a in ACTIONS)
    figures["rollbacks"] = figures["edits/ROLLBACK"]
    figures |= _verdicts(run_dir / log_file("lifecycle_evaluations"), managed)
    figures |= _benefits(run_dir)
    return {name: _number(figure) for name, figure in figures.items()}


def _verdicts(path: Path, managed: bool) -> Figures:
    if managed and not path.is_file():
        return dict.fromkeys(_REFUSED)
    seen = Counter(c.status for line in _if_there(path, Refused) for c in line.candidates)
    return {name: float(seen[status]) for name, status in _REFUSED.items()}


def _benefits(run_dir: Path) -> Figures:
    """Return the means over the edits that were judged, of what was expected and what came."""
    realised = {
        judged.seq: judged.realised
        for line in _if_there(run_dir / log_file("lifecycle_evaluations"), Judged)
        for judged in line.judgements
        if judged.realised is not None
    }
    predicted = [
        benefit
        for line in _if_there(run_dir / log_file("lifecycle_decisions"), Decision)
        if line.seq in realised
        and (benefit := number(scalars(line.metrics_at_decision), "predicted_benefit")) is not None
    ]
    return {
        "predicted_benefit": fmean(predicted) if predicted else None,
        "realised_benefit": fmean(realised.values()) if realised else None,
    }


def _if_there(path: Path, kind: type[T]) -> Iterator[T]:
    if path.is_file():
        yield from read_typed(path, kind)
