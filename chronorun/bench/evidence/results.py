"""What the jobs of a bench ended with, read back from their folders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from chronorun.core.files import write_atomically
from chronorun.core.jsonl import BYTE_ORDER_MARK, encode_json
from chronorun.errors import StorageError

FILE = "job.json"

Status = Literal["completed", "no_edit", "failed", "skipped", "missing"]
"""``no_edit``: not trained, because the lifecycle that it follows made no edit; its metrics are
those of that run. ``missing``: the job left no record, or has not run."""


@dataclass(frozen=True)
class JobResult:
    """One job: where it belongs in the comparison, how it ended, what it measured.

    ``metrics`` depend on the seed alone; ``wall`` holds what differs between equal runs (seconds,
    bytes of memory). None stands for what a run cannot tell, such as a recovery that did not come.
    """

    number: int
    folder: str
    arm: str
    scenario: str
    variant: str
    seed: int
    status: Status
    reason: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    wall: dict[str, float | None] = field(default_factory=dict)

    @property
    def has_metrics(self) -> bool:
        """Whether this job can stand in a comparison."""
        return self.status in ("completed", "no_edit")

    @property
    def was_trained(self) -> bool:
        """Whether the cost of this job is its own: a follower without edits copies its leader's."""
        return self.status == "completed"

    @property
    def cell(self) -> tuple[str, str]:
        """Return (scenario, variant)."""
        return self.scenario, self.variant

    def value(self, metric: str) -> float | None:
        """Return a metric that can stand in a comparison; None where it is not known or finite."""
        value = self.metrics.get(metric) if self.has_metrics else None
        return float(value) if value is not None and math.isfinite(value) else None


def write_result(result: JobResult, job_dir: Path) -> None:
    """Write ``job.json`` into a job's folder, atomically."""
    text = msgspec.json.format(encode_json(asdict(result)), indent=2)
    write_atomically(job_dir / FILE, text + b"\n")


def read_result(job_dir: Path) -> JobResult | None:
    """Return what a job wrote; None when it wrote nothing. Raises StorageError for a bad file."""
    path = job_dir / FILE
    if not path.is_file():
        return None
    try:
        text = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
        return msgspec.json.decode(text, type=JobResult)
    except msgspec.DecodeError as error:
        raise StorageError(
            f"bench: {path} is not the record of a job; delete the file to run the job again"
        ) from error


def cells(results: Sequence[JobResult]) -> list[tuple[str, str]]:
    """Return each (scenario, variant) once, in the order of the jobs."""
    ordered = sorted(results, key=lambda result: result.number)
    return list(dict.fromkeys(result.cell for result in ordered))


def paired(
    results: Sequence[JobResult], scenario: str, variant: str, arm: str, metric: str
) -> dict[int, float]:
    """Return the finite values of a metric of one arm, by seed."""
    here = (r for r in results if r.cell == (scenario, variant) and r.arm == arm)
    found = ((r.seed, value) for r in here if (value := r.value(metric)) is not None)
    return dict(sorted(found))
