"""How many CPU threads a process should use where nobody says a number."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def default_threads(local_world: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """Return the threads of one of ``local_world`` processes of a run on this machine.

    ``OMP_NUM_THREADS`` counts, as far as there are cores, and otherwise an even share of them.
    ``torchrun`` sets it to 1 for several processes unless it is set: there 1 is nobody's wish.
    """
    cores = usable_cores()
    share = max(1, cores // local_world)
    wished = _wished(environment.get("OMP_NUM_THREADS", ""))
    if wished is None or (wished == 1 and local_world > 1):
        return share
    return min(wished, cores)


def usable_cores() -> int:
    """Return the cores that this process may use: by its affinity, and by its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas())]))


def _wished(text: str) -> int | None:
    """Return the number of OMP_NUM_THREADS; None for what is none, as OpenMP takes it."""
    # A list has a number for each level of nested parallel regions: here is but one.
    try:
        first = int(text.partition(",")[0])
    except ValueError:
        return None
    return first if first > 0 else None


def _quotas() -> Iterator[float]:
    """Yield the limits of this process's control groups, in cores (of both versions)."""
    for folder in _folders():
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            yield from _ratio(*words)
    first = CGROUPS / "cpu"
    yield from _ratio(_read(first / "cpu.cfs_quota_us"), _read(first / "cpu.cfs_period_us"))


def _folders() -> list[Path]:
    own = [line[3:] for line in _read(OWN_CGROUP).splitlines() if line.startswith("0::/")]
    path = CGROUPS / (own[0].lstrip("/") if own else "")
    return [folder for folder in (path, *path.parents) if folder.is_relative_to(CGROUPS)]


def _ratio(quota: str, period: str) -> Iterator[float]:
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return
    # A quota of -1 is none.
    if cores > 0:
        yield cores


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
