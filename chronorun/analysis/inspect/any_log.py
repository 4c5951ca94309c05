"""A log other than decisions: its steps, the course of its figures, counts of its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chronorun.analysis.inspect.filters import Filters
from chronorun.analysis.reading.run import Notices, read_records
from chronorun.analysis.reading.series import Series
from chronorun.core.run_files import log_file
from chronorun.core.words import finite, shown
from chronorun.errors import UserError

MOST_SERIES = 200
MOST_LABELS = 200
MANY_LINES, EVERY = 50_000, 50
"""After this many lines, figures are taken from every ``EVERY``th; all lines are checked."""
Figures = Iterator[tuple[str, float]]
Labels = Iterator[str]
Row = Callable[[int | None, str, float], None]


@dataclass
class LogView:
    """What is shown of a log."""

    path: str
    kind: str = "unknown"
    lines: int = 0
    taken: int = 0
    first_step: int | None = None
    last_step: int | None = None
    run_ids: set[str] = field(default_factory=set)
    series: dict[str, Series] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    left_out: bool = False
    notices: Notices = field(default_factory=Notices)


def kind_of(record: Mapping[str, Any]) -> str:
    """Return which log a record is from; ``unknown`` for one that neither we nor v2 write."""
    for kind, keys in _MARKS:
        if all(key in record for key in keys):
            return kind
    return "metrics" if any("/" in key for key in record) else "unknown"


_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lifecycle_evaluations", ("candidates", "counters")),
    ("lifecycle_decisions", ("action", "metrics_at_decision")),
    ("lifecycle_decisions", ("action", "reason")),
    ("expert_transitions", ("from", "to")),
    ("expert_transitions", ("event", "router_delta")),
    ("basins", ("share", "expert_id")),
    ("snapshots", ("layers",)),
    ("control_decisions", ("computed", "actuator")),
    ("routing_events", ("expert_token_counts",)),
    ("scenario_events", ("scenario",)),
    ("timings", ("seconds",)),
    ("timings", ("seq", "edit_seconds")),
)


def first_kind(path: Path) -> str:
    """Return the kind of a log by its first record, or its name where it has none."""
    for _, record in read_records(path):
        return kind_of(record)
    return "lifecycle_decisions" if path.name == log_file("lifecycle_decisions") else "unknown"


def scan_log(path: Path, filters: Filters, row: Row | None = None) -> LogView:
    """Read a log; ``row`` is called with every figure that is counted.

    Raises StorageError for a damaged one.
    """
    view = LogView(str(path))
    figures: Callable[[Mapping[str, Any]], Figures] = _numbers
    labels: Callable[[Mapping[str, Any], Filters], Labels] = _no_labels
    last, skipped = None, False
    for number, record in read_records(path, view.notices):
        if not view.lines:
            view.kind = kind_of(record)
            figures = _FIGURES.get(view.kind, _numbers)
            labels = _LABELS.get(view.kind, _no_labels)
        view.lines = number
        if filters.active and not filters.takes_record(record):
            continue
        view.taken += 1
        skipped = row is None and view.taken > MANY_LINES and view.taken % EVERY != 0
        if skipped:
            last = record
        else:
            _take(view, record, figures, filters, row)
        for label in labels(record, filters):
            if label in view.labels or len(view.labels) < MOST_LABELS:
                view.labels[label] += 1
    if skipped and last is not None:
        _take(view, last, figures, filters, row)
    if row is None and view.taken > MANY_LINES:
        view.notices.add(
            f"beyond the first {MANY_LINES:,} lines, figures are those of every {EVERY}th and of "
            f"the last; --csv has all"
        )
    return view


def _take(
    view: LogView,
    record: Mapping[str, Any],
    figures: Callable[[Mapping[str, Any]], Figures],
    filters: Filters,
    row: Row | None,
) -> None:
    step, run_id = _step(record), record.get("run_id")
    if step is not None:
        view.first_step = step if view.first_step is None else min(view.first_step, step)
        view.last_step = step if view.last_step is None else max(view.last_step, step)
    if isinstance(run_id, str) and len(view.run_ids) < 5:
        view.run_ids.add(run_id[:200])
    series = view.series
    for name, value in figures(record):
        found = series.get(name)
        if found is None:
            if len(series) >= MOST_SERIES or not _wanted(name, filters):
                view.left_out = view.left_out or len(series) >= MOST_SERIES
                continue
            found = series[name] = Series()
        found.add(view.taken if step is None else step, value)
        if row is not None:
            row(step, name, value)


def _wanted(name: str, filters: Filters) -> bool:
    """Return whether a figure of one layer (``L3 ...``, ``moe/L3/...``) is shown."""
    if not filters.layers:
        return True
    head = name.split("/")[1] if name.startswith("moe/") else name.split(" ")[0]
    if not head.startswith("L") or not head[1:].isdecimal():
        return True
    return int(head[1:8]) in filters.layers


def _step(record: Mapping[str, Any]) -> int | None:
    step = record.get("step")
    if isinstance(step, bool) or not isinstance(step, int | float) or finite(step) is None:
        return None
    return int(step) if abs(step) < 1 << 53 else None


def _numbers(record: Mapping[str, Any], prefix: str = "") -> Figures:
    for key, value in record.items():
        if key in ("step", "timestamp", "layer_id", "schema_version", "seq", "checkpoint"):
            continue
        number = finite(value)
        if number is not None:
            yield prefix + key[:80], number


def _of(record: Mapping[str, Any]) -> str:
    layer = record.get("layer_id")
    return f"L{layer} " if isinstance(layer, int) and 0 <= layer < 10**6 else ""


def _within(record: Mapping[str, Any], *parts: str) -> Figures:
    for part in parts:
        inner = record.get(part)
        if isinstance(inner, Mapping):
            yield from _numbers(inner, _of(record))


def _snapshot(record: Mapping[str, Any]) -> Figures:
    for key in ("train_loss", "val_loss"):
        if (number := finite(record.get(key))) is not None:
            yield key, number
    layers = record.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        if not isinstance(layer, Mapping):
            continue
        shares = layer.get("utilization_shares")
        if "num_experts" not in layer and isinstance(shares, list):
            yield f"{_of(layer)}num_experts", float(len(shares))
        yield from _numbers(layer, _of(layer))


def _control(record: Mapping[str, Any]) -> Figures:
    return _within(record, "observed", "computed", "actuator")


def _event(record: Mapping[str, Any]) -> Figures:
    counts = record.get("expert_token_counts")
    if isinstance(counts, list):
        known = [n for n in counts if isinstance(n, int) and abs(n) < 1 << 53]
        yield f"{_of(record)}tokens", float(sum(known))
        yield f"{_of(record)}busiest", float(max(known, default=0))
        yield f"{_of(record)}idle_experts", float(sum(n == 0 for n in known))


def _evaluation(record: Mapping[str, Any]) -> Figures:
    signals = record.get("signals")
    if isinstance(signals, Mapping):
        yield from _numbers(signals, _of(record))


def _basin(record: Mapping[str, Any]) -> Figures:
    expert_id = record.get("expert_id")
    name = expert_id[:80] if isinstance(expert_id, str) else "?"
    for key in ("share", "weight_norm", "weight_delta"):
        if (number := finite(record.get(key))) is not None:
            yield f"{name} {key}", number


def _none(record: Mapping[str, Any]) -> Figures:
    return iter(())


_FIGURES: dict[str, Callable[[Mapping[str, Any]], Figures]] = {
    "snapshots": _snapshot,
    "control_decisions": _control,
    "routing_events": _event,
    "lifecycle_evaluations": _evaluation,
    "basins": _basin,
    "expert_transitions": _none,
}


def _no_labels(record: Mapping[str, Any], filters: Filters) -> Labels:
    return iter(())


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return shown(value, 60) if isinstance(value, str) else "-"


def _alerts(key: str) -> Callable[[Mapping[str, Any], Filters], Labels]:
    def labels(record: Mapping[str, Any], filters: Filters) -> Labels:
        notes = record.get(key)
        for note in notes if isinstance(notes, list) else ():
            if isinstance(note, str):
                # "PRE_COLLAPSE: Layer 0: n_effective ..." is counted by what and where.
                yield shown(":".join(note.split(":")[:2]), 60)

    return labels


def _moves(record: Mapping[str, Any], filters: Filters) -> Labels:
    if record.get("event") == "released":
        yield "twins released"
        return
    yield f"{_text(record, 'from')} -> {_text(record, 'to')} ({_text(record, 'reason')})"


def _verdicts(record: Mapping[str, Any], filters: Filters) -> Labels:
    candidates = record.get("candidates")
    for c in candidates if isinstance(candidates, list) else ():
        if not isinstance(c, Mapping):
            continue
        if filters.actions and c.get("action") not in filters.actions:
            continue
        why = _text(c, "why") if c.get("why") else ""
        yield f"{_of(record)}{_text(c, 'action')} {_text(c, 'status')}{why and ': '}{why}"


def _scenario(record: Mapping[str, Any], filters: Filters) -> Labels:
    yield f"{_text(record, 'scenario')} {_text(record, 'event')}"


_LABELS: dict[str, Callable[[Mapping[str, Any], Filters], Labels]] = {
    "snapshots": _alerts("alerts"),
    "control_decisions": _alerts("notes"),
    "expert_transitions": _moves,
    "lifecycle_evaluations": _verdicts,
    "scenario_events": _scenario,
}


def refuse_why(view_of: str) -> UserError:
    """Return the error for ``--why`` with something that has no decisions."""
    return UserError(
        f"inspect: --why asks for one expert, and {view_of}, expected a run's folder or its "
        f"lifecycle_decisions.jsonl; name one of these"
    )
