"""One row of the table: a figure with its spread and its goals, or why there is none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from performance.timing import NOISE_LIMIT, paired_ratios, spread

NOISY = "refused: noisy"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """A figure (the median, with least and largest of its rounds) and what it ought to be.

    ``unit``: ``x`` a ratio, ``%`` a ratio shown in hundredths, ``s`` seconds, ``MiB``. ``must`` is
    the largest value allowed and ``aim`` the one hoped for, the smallest where ``at_least`` is set;
    None: no goal. ``value`` is None where ``status`` tells why nothing was measured;
    ``baseline_spread`` is the slowest round of the baseline over its fastest; ``limit`` says what
    stands in the way of the must, for the case that it is missed.
    """

    group: str
    name: str
    unit: str
    value: float | None
    least: float | None = None
    largest: float | None = None
    must: float | None = None
    aim: float | None = None
    at_least: bool = False
    baseline_spread: float | None = None
    note: str = ""
    limit: str = ""
    status: str = "measured"

    def verdict(self) -> str:
        """Say whether the goals hold, and by how much one is missed."""
        if self.value is None:
            return self.status
        if self.must is None:
            return "no goal" if self.aim is None else self._beside("", self.aim, "the aim")
        if not self._within(self.must):
            return self._beside("MISSES: ", self.must, "the must")
        if self.aim is None:
            return "holds"
        return (
            "holds, aim too"
            if self._within(self.aim)
            else self._beside("holds, ", self.aim, "the aim")
        )

    def holds(self) -> bool:
        """Whether the must is met; also where there is none, or no figure."""
        return self.value is None or self.must is None or self._within(self.must)

    def is_refused(self) -> bool:
        """Whether there is no figure because the baseline was noisy."""
        return self.status.startswith(NOISY)

    def remark(self) -> str:
        """Return the note, and where the must is missed also what stands in the way."""
        return self.note if self.holds() or not self.limit else f"{self.note}; {self.limit}"

    def _within(self, goal: float) -> bool:
        assert self.value is not None
        return self.value >= goal if self.at_least else self.value <= goal

    def _beside(self, opening: str, goal: float, name: str) -> str:
        assert self.value is not None
        if goal == 0.0:
            return f"{opening}{self.value:g} where {name} is 0"
        return f"{opening}{self.value / goal:.2f} of {name}"


def without_goals(rows: Sequence[Row]) -> list[Row]:
    """Return rows that were measured on a smaller model than the one that the goals speak of."""
    return [replace(row, must=None, aim=None) for row in rows]


def ratio_row(
    group: str,
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    unit: str = "x",
    must: float | None = None,
    aim: float | None = None,
    at_least: bool = False,
    note: str = "",
    limit: str = "",
) -> Row:
    """Return the median ratio of paired rounds, refused where those below vary too much."""
    ratios = paired_ratios(above, below)
    return summary_row(
        group,
        name,
        ratios,
        below,
        unit=unit,
        must=must,
        aim=aim,
        at_least=at_least,
        note=note,
        limit=limit,
    )


def summary_row(
    group: str,
    name: str,
    values: Sequence[float],
    baseline: Sequence[float],
    *,
    unit: str,
    value: float | None = None,
    must: float | None = None,
    aim: float | None = None,
    at_least: bool = False,
    note: str = "",
    limit: str = "",
) -> Row:
    """Return the row of ``values`` (their median unless ``value`` is given).

    Refused where the rounds of ``baseline`` vary by more than ``NOISE_LIMIT``.
    """
    noise = spread(baseline)
    shared = {"must": must, "aim": aim, "at_least": at_least, "note": note, "limit": limit}
    if noise > NOISE_LIMIT:
        why = f"{NOISY} (baseline varied {noise:.2f} times)"
        return Row(group, name, unit, None, baseline_spread=noise, status=why, **shared)  # type: ignore[arg-type]
    middle = statistics.median(values) if value is None else value
    return Row(
        group,
        name,
        unit,
        middle,
        min(values),
        max(values),
        baseline_spread=noise,
        **shared,  # type: ignore[arg-type]
    )
