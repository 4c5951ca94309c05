"""Measure every row of the performance goals, and say which hold.

    python benchmarks/run.py [--quick] [--rows GROUP ...] [--out benchmarks/results/performance]

Ratios come from interleaved rounds in one process on one thread, of process CPU time; a figure is
their median, with least and largest. A row whose baseline took more than 1.5 times as long in one
round as in another is refused instead of reported; its group is measured again, twice at most, and
what was refused before is then taken from there. ``benchmarks/README.md`` describes the groups.
``--quick`` takes about three minutes and is rough. The table goes to the terminal and to
``<out>.json`` and ``<out>.md``; with ``--rows``, other groups keep there what the same machine and
versions found before. Exit code 0, also where a goal is missed.
"""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from performance import GROUPS, load_group
from performance.machine import load, machine
from performance.report import earlier, merged, text_table, write
from performance.rows import Row

TRIES = 3
DEFAULT_OUT = Path(__file__).resolve().parent / "results" / "performance"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few rounds, small models")
    parser.add_argument("--rows", nargs="+", choices=list(GROUPS), metavar="GROUP")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="STEM")
    return parser.parse_args()


def measure_group(name: str, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Measure one group; returns its rows, and its seconds and load."""
    before, began = load(), time.perf_counter()
    print(f"\n{name}", flush=True)
    rows, tries = load_group(name)(quick), 1
    # Which rows are taken from a later try depends on how noisy their baseline was, on no figure.
    while not quick and tries < TRIES and any(row.is_refused() for row in rows):
        again = {row.name: row for row in load_group(name)(quick)}
        rows = [again.get(row.name, row) if row.is_refused() else row for row in rows]
        tries += 1
    gc.collect()
    seconds = round(time.perf_counter() - began)
    print(text_table(rows), flush=True)
    print(f"  {seconds} s, {tries} tries, load {before[0]} to {load()[0]}", flush=True)
    about = {"date": time.strftime("%Y-%m-%d"), "seconds": seconds, "tries": tries}
    return rows, about | {"load_before": before, "load_after": load()}


def main() -> int:
    """Measure, print and write."""
    options = parse_arguments()
    torch.set_num_threads(1)
    command = shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])
    here = machine()
    print(", ".join(f"{key}: {value}" for key, value in here.items()), f"load: {load()}", sep=", ")
    wanted = options.rows or list(GROUPS)
    about, kept = earlier(options.out, here, options.quick) if options.rows else ({}, [])
    rows: list[Row] = []
    for name in wanted:
        found, about[name] = measure_group(name, options.quick)
        about[name] |= {"command": command, "quick": options.quick}
        rows += found
        # After each group, so that an interrupted run leaves what it has.
        groups = {name: about[name] for name in GROUPS if name in about}
        write(options.out, {"machine": here, "groups": groups}, merged(rows, kept, list(groups)))
    missed = [row for row in rows if not row.holds()]
    refused = sum(row.is_refused() for row in rows)
    print(f"\n{len(rows)} rows, {len(missed)} musts missed, {refused} refused as too noisy")
    for row in missed:
        print(f"  {row.name}: {row.verdict()}")
    print(f"written: {options.out}.json, {options.out}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
