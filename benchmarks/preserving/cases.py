"""The cases of an edit, summarised by row and printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

EXACT, FAST, RELEASE, SMALL = 0.0, 1e-6, 2e-3, 1e-3
STAR = " *"


@dataclass(frozen=True)
class Setup:
    """How long to train, before an edit and between two, and what to measure on."""

    preset: str
    data: str
    base_steps: int = 300
    short: int = 20
    long: int = 60
    batch_size: int = 16
    probe_batches: int = 16
    layers: tuple[int, ...] = (0, 1)
    targets: int = 2


SETUPS = {
    "nano": Setup("nano", "stdlib"),
    "tiny": Setup("tiny", "stdlib", probe_batches=8, layers=(0, 2, 3)),
    "quick": Setup("nano", "synthetic", 30, 2, 4, 4, 2, targets=1),
}


@dataclass(frozen=True)
class Case:
    """One edit of one expert. ``shock`` is None where only the layer's output was compared."""

    edit: str
    top_k: int
    seed: int
    layer_id: int
    expert_id: str
    shock: float | None
    output: float
    token: float
    gate_kl: float | None
    share: float
    must: float | None
    cosine: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class Row:
    """All cases of one edit at one top-k."""

    edit: str
    top_k: int
    cases: int
    median: float | None
    worst: float | None
    output: float
    token: float
    gate_kl: float | None
    must: float | None
    holds: bool


def summarise(cases: Sequence[Case]) -> list[Row]:
    """Return one row per top-k and edit, in the order in which edits came."""
    rows = []
    edits = list(dict.fromkeys(case.edit for case in cases))
    names = list(dict.fromkeys(edit.removesuffix(STAR) for edit in edits))
    edits.sort(key=lambda edit: (names.index(edit.removesuffix(STAR)), edit.endswith(STAR)))
    for top_k in sorted({case.top_k for case in cases}):
        for edit in edits:
            mine = [case for case in cases if (case.edit, case.top_k) == (edit, top_k)]
            if not mine:
                continue
            shocks = [case.shock for case in mine if case.shock is not None]
            kls = [case.gate_kl for case in mine if case.gate_kl is not None]
            worst = max(shocks, key=abs, default=None)
            output = statistics.median(case.output for case in mine)
            token, must = max(case.token for case in mine), mine[0].must
            # A loss that falls is no harm, but what must be exact must not move at all.
            exact = must in (EXACT, FAST)
            bounded = [abs(worst) if exact else max(shocks)] if worst is not None else []
            if must == EXACT:
                bounded += [max(case.output for case in mine), token]
            rows.append(
                Row(
                    edit,
                    top_k,
                    len(mine),
                    statistics.median(map(abs, shocks)) if shocks else None,
                    worst,
                    output,
                    token,
                    statistics.median(kls) if kls else None,
                    must,
                    must is None or all(figure <= must for figure in bounded),
                )
            )
    return rows


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table, 80 columns wide."""
    top_k = None
    for row in sorted(rows, key=lambda row: row.top_k):
        if row.top_k != top_k:
            top_k = row.top_k
            head = f"top-{top_k}"
            print(
                f"\n{head:26} {'median':>8} {'worst':>8} {'output':>7} {'token':>7} "
                f"{'KL':>7} {'must':>5}"
            )
        figures = [
            _number(row.median, 8),
            _number(row.worst, 8, "+"),
            _number(row.output, 7),
            _number(row.token, 7),
            _number(row.gate_kl, 7),
            f"{'' if row.must is None else f'{row.must:.0e}' if row.must else '0':>5}",
            "" if row.must is None else "ok" if row.holds else "MISS",
        ]
        print(f"{row.edit:26} {' '.join(figures)}".rstrip())


def _number(figure: float | None, width: int, sign: str = "") -> str:
    if figure is None or figure == 0.0:
        return f"{'-' if figure is None else '0':>{width}}"
    return f"{figure:{sign}{width}.0e}" if width < 8 else f"{figure:{sign}{width}.1e}"
