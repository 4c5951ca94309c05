"""How loss and population went over a run's evaluation checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from chronorun.analysis.reading.fields import number
from chronorun.analysis.reading.run import read_records
from chronorun.errors import StorageError


@dataclass
class Course:
    """One entry per evaluation checkpoint; ``by_layer`` holds each layer's metrics by name."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    by_layer: list[dict[int, dict[str, float]]] = field(default_factory=list)

    def area(self) -> float | None:
        """Return the area under the validation loss over the steps it spans (trapezoids), nats."""
        if len(self.steps) < 2:
            return self.losses[0] if self.losses else None
        points = list(zip(self.steps, self.losses, strict=True))
        area = sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(points))
        return area / (self.steps[-1] - self.steps[0])

    def layer_means(self, name: str) -> list[float]:
        """Return a metric's mean over layers, for each checkpoint that has it."""
        found = [[m[name] for m in at.values() if name in m] for at in self.by_layer]
        return [fmean(values) for values in found if values]

    def populations(self) -> list[tuple[int, list[int]]]:
        """Return (steps, experts by layer) of each window; empty where they are not known.

        A window's population is the one at its end, before the edits of that checkpoint; it does
        not change within a window.
        """
        return list(self._windows()) if all(self.by_layer) else []

    def _windows(self) -> Iterator[tuple[int, list[int]]]:
        last = 0
        for step, layers in zip(self.steps, self.by_layer, strict=True):
            yield step - last, [int(layers[i]["num_experts"]) for i in sorted(layers)]
            last = step


_LAYER = re.compile(r"moe/L(\d+)/(\w+)")


def read_course(path: Path) -> Course:
    """Read it from ``metrics.jsonl``; empty where there is none.

    Raises StorageError for a line that is damaged, and for a checkpoint with anything but finite
    numbers: a course with gaps would pass for another one.
    """
    course = Course()
    for line, record in read_records(path) if path.is_file() else ():
        if "val/loss" not in record:
            continue
        where = f"{path}, line {line}"
        layers: dict[int, dict[str, float]] = {}
        for key in record:
            if found := _LAYER.fullmatch(key):
                layers.setdefault(int(found[1]), {})[found[2]] = _number(record, key, where)
        course.steps.append(int(_number(record, "step", where)))
        course.losses.append(_number(record, "val/loss", where))
        course.by_layer.append(layers)
    return course


def _number(record: Mapping[str, Any], key: str, where: str) -> float:
    found = number(record, key)
    if found is None:
        raise StorageError(
            f"bench: {where}: {key}={record.get(key)!r}, expected a finite number; run the job "
            f"again"
        )
    return found
