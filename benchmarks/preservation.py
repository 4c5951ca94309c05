"""Measure how much a structural edit is felt by a trained model, and the naive ways beside it.

    python benchmarks/preservation.py [--full] [--data stdlib|synthetic] [--seeds 0 1 2]
        [--top-k 1 2] [--work DIR] [--quick] [--json FILE]

It trains nano (with ``--full`` tiny as well) half-way through its schedule, at top-1 and top-2 and
from several seeds, and applies each edit to that state: through the lifecycle's own population and
surgeon, in several layers, to a busy expert and to a middling one. What is felt is read off the
lifecycle's receipts, over all tokens of a probe that training never saw. ``--work`` keeps the
trained states for the next call. Exit code 0: every "must" holds, 1: one is missed.

Columns: ``median`` and ``worst`` are relative changes of the probe loss over the cases (the median
of their sizes; the largest, with its sign); ``output`` is the RMS change of the layer's output over
its RMS, ``token`` the largest change of one token's output over the RMS norm of a token's, ``KL``
the gates' in nats a token (medians; ``token``: the largest). A "must" bounds the largest rise of
the loss; where it is 0 nothing may move, ``output`` and ``token`` neither. A star marks pairs that
the lifecycle would not merge: their weights' cosine or their tokens' overlap is below its
thresholds. "as run", "averaged" and "removed" are what a run does: twins are released once that
shocks little, and of two experts that tokens choose together one fades out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from preserving.bench import Bench
from preserving.cases import SETUPS, Case, Setup, print_rows, summarise

from chronorun.data import TokenizedCorpus


def machine() -> dict[str, object]:
    """Return what the figures may depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def measure(
    setup: Setup, top_ks: Sequence[int], seeds: Sequence[int], work: Path
) -> dict[str, Any]:
    """Measure one preset, print its table and return the record."""
    cases: list[Case] = []
    bases = []
    corpus: TokenizedCorpus | None = None
    for top_k in top_ks:
        for seed in seeds:
            bench = Bench(setup, top_k, seed, work, corpus)
            corpus = bench.corpus
            bench.run()
            cases += bench.cases
            bases.append({"top_k": top_k, "seed": seed, "probe_loss": bench.loss})
            note = f"{setup.preset} top-{top_k} seed {seed}: probe loss {bench.loss:.3f}"
            print(note, file=sys.stderr, flush=True)
    rows = summarise(cases)
    probe = setup.probe_batches * bench.config.lifecycle.probe_batch_size
    tokens = probe * bench.config.model.context_length
    losses = [base["probe_loss"] for base in bases]
    print(
        f"\n{setup.preset} on {setup.data}, {setup.base_steps} steps of {2 * setup.base_steps}, "
        f"seeds {', '.join(map(str, seeds))}, layers {', '.join(map(str, setup.layers))}\n"
        f"probe: {tokens} tokens, loss {min(losses):.3f} to {max(losses):.3f}"
    )
    print_rows(rows)
    return {
        "setup": asdict(setup),
        "probe_tokens": tokens,
        "seeds": list(seeds),
        "bases": bases,
        "rows": [asdict(row) for row in rows],
        "case_fields": list(Case.__dataclass_fields__),
        "cases": [[_short(field) for field in vars(case).values()] for case in cases],
    }


def _short(field: object) -> object:
    return float(f"{field:.4g}") if isinstance(field, float) else field


def to_json(record: Mapping[str, Any]) -> str:
    """Return the record, each case on a line of its own."""
    text = json.dumps(record, indent=1)
    # No string in a case holds a bracket: what stands between brackets is one list of plain values.
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text) + "\n"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true", help="measure tiny as well")
    parser.add_argument("--data", choices=("stdlib", "synthetic"), help="default: stdlib")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the trained states there")
    parser.add_argument("--quick", action="store_true", help="one seed, hardly trained: a test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and say by the exit code whether every must holds."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    names = ["quick"] if arguments.quick else ["nano", "tiny"] if arguments.full else ["nano"]
    record: dict[str, Any] = {
        "machine": machine(),
        "command": shlex.join(["python", *sys.argv]),
    }
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        for name in names:
            setup = SETUPS[name]
            if arguments.data:
                setup = Setup(**(asdict(setup) | {"data": arguments.data}))
            seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
            record[name] = measure(setup, arguments.top_k, seeds, work)
            rows += record[name]["rows"]
    if arguments.json:
        arguments.json.write_text(to_json(record), encoding="utf-8")
    missed = sum(not row["holds"] for row in rows)
    print(f"\n{missed} of {sum(row['must'] is not None for row in rows)} musts missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
