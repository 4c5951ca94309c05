"""``chronorun inspect`` on a million decisions; the parts are those of ``inspect_speed.py``.

    python -m performance.inspecting LINES ROUNDS      (used by the group itself)

A process counts as its own peak what the one that started it held. Torch is in memory where the
groups are measured, so that a small process of its own starts the inspections.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from inspect_speed import GOAL_GROWTH_MIB, GOAL_SECONDS, inspect, write_log

from performance.rows import Row, summary_row

AIM_SECONDS = 2.0
GOAL_LINES = 1_000_000
HERE = Path(__file__).resolve().parents[1]


def measure(quick: bool) -> list[Row]:
    """Return seconds by the clock, and growth of memory over one line; quick: fewer lines."""
    lines, rounds = (100_000, 2) if quick else (GOAL_LINES, 5)
    command = [sys.executable, "-m", "performance.inspecting", str(lines), str(rounds)]
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    seconds, memory, small = found["seconds"], found["mib"], found["mib_of_one_line"]
    counts = lines == GOAL_LINES
    return [
        summary_row(
            "inspect",
            f"inspect, {lines:,} lines",
            seconds,
            seconds,
            unit="s",
            must=GOAL_SECONDS if counts else None,
            aim=AIM_SECONDS if counts else None,
            note="by the clock, start included",
            limit="5 us a line, half to decode, half to follow population, lineage and timeline",
        ),
        summary_row(
            "inspect",
            f"memory of {lines:,} lines over one",
            [m - s for m, s in zip(memory, small, strict=True)],
            small,
            unit="MiB",
            must=GOAL_GROWTH_MIB,
        ),
    ]


def _print_rounds(lines: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lifecycle_decisions.jsonl"
        write_log(path, 1)
        small = [inspect(path)[1] for _ in range(rounds)]
        write_log(path, lines)
        taken = [inspect(path) for _ in range(rounds)]
    seconds, memory = [x[0] for x in taken], [x[1] for x in taken]
    print(json.dumps({"seconds": seconds, "mib": memory, "mib_of_one_line": small}))


if __name__ == "__main__":
    _print_rounds(int(sys.argv[1]), int(sys.argv[2]))
