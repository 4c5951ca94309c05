"""Measure how fast ``chronorun inspect`` reads, and in how much memory.

    python benchmarks/inspect_speed.py [--lines 10000 100000 1000000] [--rounds N] [--out NAME]

A decisions file of our own records (two layers of 8 to 16 experts, every kind of action, receipts)
is written to a temporary folder and inspected by the command itself, in a process of its own, its
output thrown away. Seconds are the least of the rounds, process start included; lines per second
leave it out: they are lines over the seconds beyond those of one line. Memory is the peak of that
process over that of an inspection of one line. The goal: at most 5 s at a million lines, and memory
that does not grow with them. Exit code 0: the goal holds, 1: it is missed. (A script named
inspect.py would hide the standard library's module from every other script of this folder.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

GOAL_SECONDS = 5.0
GOAL_GROWTH_MIB = 16.0
_CYCLE = ("SPLIT", "SPAWN", "MERGE", "PRUNE")


def decision(number: int) -> dict[str, Any]:
    """Return the record of one action of a population that breathes between 8 and 10 experts."""
    action = _CYCLE[number % 4]
    layer_id = number // 4 % 2
    before = [f"L{layer_id}_E{i}" for i in range(8 + number % 4 % 3)]
    grows = action in ("SPLIT", "SPAWN")
    expert_id = f"L{layer_id}_E{8 + number // 4}"
    return {
        "step": 10 * number,
        "run_id": "benchmark",
        "action": action,
        "layer_id": layer_id,
        "expert_id": expert_id,
        "parent_id": f"L{layer_id}_E0" if grows else None,
        "reason": "overloaded",
        "metrics_at_decision": {
            "layer_entropy": 1.9568452802637388,
            "layer_neff": 7.103470285494419,
            "topology_debt": 0.0837356131043992,
            "num_experts": len(before),
            "share": 0.41,
            "overload_duration": 3,
            "predicted_benefit": 0.0,
        },
        "config_snapshot": {"split_share_threshold": 0.4, "split_patience": 3},
        "schema_version": 1,
        "seq": number,
        "integrated_step": 10 * number,
        "child_ids": [expert_id] if grows else [],
        "partner_id": f"L{layer_id}_E1" if action == "MERGE" else None,
        "undoes": None,
        "experts_before": before,
        "experts_after": [*before, expert_id] if grows else before[:-1],
        "receipt": {
            "probe_loss_before": 2.389563798904419,
            "probe_loss_after": 2.391288995742798,
            "probe_shock": 0.0007219714490024851,
            "output_change": 0.26794821886134595,
        },
        "dry_run": False,
    }


def write_log(path: Path, lines: int) -> None:
    """Write a decisions file."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            file.write(json.dumps(decision(number), separators=(",", ":")) + "\n")


def inspect(path: Path, *flags: str) -> tuple[float, float]:
    """Return seconds and peak MiB of one inspection, in a process of its own."""
    command = [sys.executable, "-m", "chronorun", "inspect", str(path), *flags]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    unit = 1 if platform.system() == "Darwin" else 1024
    return seconds, usage.ru_maxrss * unit / 2**20


def page(where: str, start_seconds: float, rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    head = [
        "# How fast inspect reads",
        "",
        f"{where}.",
        "",
        f"Seconds include process start, {start_seconds:.2f} s; lines per second exclude it.",
        "Memory is the peak over that of one line.",
        "",
        "| lines | MiB | view | lines/s | memory | `--json` |",
        "|---|---|---|---|---|---|",
    ]
    body = [
        f"| {r['lines']:,} | {r['mib']:.0f} | {r['seconds']:.2f} s | {r['lines_per_second']:,.0f} "
        f"| {r['growth_mib']:+.1f} MiB | {r['json_seconds']:.2f} s |"
        for r in rows
    ]
    return "\n".join([*head, *body]) + "\n"


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lines", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json, too")
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    print(f"{'lines':>10} {'MiB':>7} {'view':>9} {'lines/s':>10} {'memory':>9} {'--json':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lifecycle_decisions.jsonl"
        write_log(path, 1)
        start_seconds, start_memory = min(inspect(path) for _ in range(options.rounds))
        for lines in options.lines:
            write_log(path, lines)
            taken = [inspect(path) for _ in range(options.rounds)]
            seconds, memory = min(t for t, _ in taken), min(m for _, m in taken)
            as_json, _ = inspect(path, "--json")
            growth = memory - start_memory
            size = path.stat().st_size / 2**20
            rate = lines / max(seconds - start_seconds, 1e-9)
            rows.append(
                {
                    "lines": lines,
                    "mib": size,
                    "seconds": seconds,
                    "lines_per_second": rate,
                    "peak_mib": memory,
                    "growth_mib": growth,
                    "json_seconds": as_json,
                }
            )
            print(
                f"{lines:>10,} {size:>7.0f} {seconds:>7.2f} s {rate:>10,.0f} "
                f"{growth:>+6.1f} MiB {as_json:>7.2f} s"
            )
    print(f"\nstart alone: {start_seconds:.2f} s, {start_memory:.0f} MiB")
    # Not before: a child's peak memory counts what its parent holds when it starts, and this loads
    # torch.
    from performance.machine import machine

    on = machine() | {"load_before": load}
    where = (
        f"{on['date']}, {on['cpu']}, {on['cores']} cores, Python {on['python']}, chronorun "
        f"{version('chronorun')}, load {load:.1f}, {options.rounds} rounds"
    )
    print(where)
    if options.out:
        record = {"machine": on, "rounds": options.rounds, "start_seconds": start_seconds}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record | {"rows": rows}, indent=2) + "\n"
        options.out.with_suffix(".json").write_text(text)
        options.out.with_suffix(".md").write_text(page(where, start_seconds, rows))
    largest = rows[-1]
    slow = largest["lines"] >= 10**6 and largest["seconds"] > GOAL_SECONDS
    grew = largest["peak_mib"] - rows[0]["peak_mib"] > GOAL_GROWTH_MIB
    print("goal missed" if slow or grew else "goal holds")
    return int(slow or grew)


if __name__ == "__main__":
    sys.exit(main())
