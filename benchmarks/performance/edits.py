"""What one structural edit costs, model and optimizer, in units of a training step.

Each kind is carried out by the population of a run (births: staged and integrated), with moments,
archive on disk and books, without the probe's readings: those have rows of their own. Between the
edits the run trains, so that moments and newest routing are there. After an edit several processes
build DistributedDataParallel anew: timed in a group of one process, so without their greetings.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from chronorun.lifecycle import Action
from chronorun.lifecycle.decide.actions import Candidate, Status, Verdict
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import make_decision
from chronorun.lifecycle.record.ledger import BIRTHS
from chronorun.training.data_parallel import build_parallel
from performance.rows import Row, summary_row, without_goals
from performance.runs import BenchmarkRun
from performance.timing import cpu_seconds

MUST, AIM = 0.1, 0.02
LAYER = 0


class Editor:
    """Edits the first layer of a run that manages its population."""

    def __init__(self, overrides: list[str], folder: Path) -> None:
        acting = ["lifecycle=default", "lifecycle.lifecycle_warmup_steps=1000000"]
        self.run = BenchmarkRun([*overrides, *acting], folder)
        lifecycle = self.run.heartbeat.lifecycle
        assert lifecycle is not None
        self.lifecycle, self.population = lifecycle, lifecycle.population
        self.population.probe = None
        self.seq = itertools.count()

    def carry_out(self, candidate: Candidate) -> int:
        """Make an edit and return its number."""
        seq, step, population = next(self.seq), self.run.step, self.population
        slots = population.registry.slots(LAYER)
        verdict = Verdict(candidate, Status.executed, seq=seq)
        decision = make_decision(verdict, step, "benchmark", self.lifecycle.config, slots)
        if candidate.action in BIRTHS:
            starved_T = population.tap.starved(LAYER, None)
            population.carry_out(candidate, decision, 60, starved_T)
            population.begin_step(step)
        else:
            population.carry_out(candidate, decision)
        return seq

    def settle(self) -> None:
        """Let everyone be of age, so that any edit is allowed."""
        for record in self.population.registry.live(LAYER):
            record.state = ExpertState.active


def measure(quick: bool) -> list[Row]:
    """Return the cost of each kind of edit by preset and number of experts."""
    cases = [("nano", 8)] if quick else [("tiny", 8), ("tiny", 64), ("medium", 8)]
    rows = []
    for preset, experts in cases:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure_case(preset, experts, Path(folder), 2 if quick else 5)
    return without_goals(rows) if quick else rows


def measure_case(preset: str, experts: int, folder: Path, rounds: int) -> list[Row]:
    """Return a row for each kind of edit; a round makes all and ends where it began."""
    batch = 8 if preset == "medium" else 16
    overrides = [f"model={preset}", f"model.num_experts={experts}", f"training.batch_size={batch}"]
    editor = Editor([*overrides, "lifecycle.max_experts_per_layer=200"], folder)
    editor.run.take()
    steps: list[float] = []
    edits: dict[str, list[float]] = {}
    built: list[float] = []
    with group_of_one():
        # The first merge of a process imports scipy, the first DDP torch's compiler.
        one_round(editor, [])
        build_parallel(editor.run.model)
        for _ in range(rounds):
            for kind, seconds in one_round(editor, steps):
                edits.setdefault(kind, []).append(seconds)
            built.append(cpu_seconds(lambda: build_parallel(editor.run.model)))
    name = f"{preset}, {experts} experts"
    of_round = steps[:: len(edits)]
    rows = [
        summary_row(
            "edits",
            f"{kind} / step, {name}",
            [x / step for x, step in zip(seconds, of_round, strict=True)],
            steps,
            unit="x",
            must=MUST,
            aim=AIM,
        )
        for kind, seconds in edits.items()
    ]
    dearest = [max(seconds) for seconds in zip(*edits.values(), strict=True)]
    both = [(x + y) / step for x, y, step in zip(dearest, built, of_round, strict=True)]
    note = f"dearest edit of each round; DDP alone {statistics.median(built) * 1e3:.1f} ms"
    title = f"edit and DDP built anew / step, {name}"
    rows.append(summary_row("edits", title, both, steps, unit="x", must=MUST, aim=AIM, note=note))
    return rows


@contextmanager
def group_of_one() -> Iterator[None]:
    """Let this process be a group, as one of ``torchrun`` is."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def one_round(editor: Editor, steps: list[float]) -> list[tuple[str, float]]:
    """Make each kind of edit once, a training step after each, and undo what is left."""
    registry = editor.population.registry
    first, second = registry.slots(LAYER)[:2]
    found: list[tuple[str, float]] = []

    def edit(kind: str, candidate: Candidate) -> int:
        editor.settle()
        seqs: list[int] = []
        found.append((kind, cpu_seconds(lambda: seqs.append(editor.carry_out(candidate)))))
        steps.append(cpu_seconds(editor.run.take))
        return seqs[0]

    def candidate(action: Action, expert_id: str, **named: object) -> Candidate:
        return Candidate(action, LAYER, expert_id, "benchmark", 1, **named)  # type: ignore[arg-type]

    child = registry.next_id(LAYER)
    edit("split", candidate(Action.SPLIT, child, parent_id=first))
    registry.release(child)
    newborn = registry.next_id(LAYER)
    spawn = candidate(Action.SPAWN, newborn, parent_id=second, cluster=(second,))
    edit("spawn", spawn)
    edit("prune", candidate(Action.PRUNE, newborn))
    edit("revive", candidate(Action.REVIVE, newborn))
    shares = {"share": 0.2, "partner_share": 0.1}
    merge = candidate(Action.MERGE, first, partner_id=child, metrics=shares)
    merged = edit("merge", merge)
    edit("rollback", candidate(Action.ROLLBACK, child, undoes=merged))
    for leftover in (child, newborn):
        editor.settle()
        editor.carry_out(candidate(Action.PRUNE, leftover))
        editor.run.take()
    return found
