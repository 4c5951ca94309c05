"""Hostile configurations: one line says what is wrong; nothing named in them is ever called."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from warm.commands import Commands

from reliability import fuzzing, nano
from reliability.figures import Figures

PER_BATCH = 25
KEYS = (
    "seed",
    "model.num_experts",
    "model.top_k",
    "model.d_model",
    "model.context_length",
    "training.max_steps",
    "training.batch_size",
    "training.threads",
    "training.eval_interval",
    "optimizer.lr",
    "router.capacity_factor",
    "lifecycle.min_experts_per_layer",
    "lifecycle.prune_patience",
    "scenario.severity",
    "data.files",
    "data.source",
    "tokenizer.vocab_size",
    "tracking.wandb.mode",
    "edits.source",
    "run_id",
    "resume",
)
GROUPS = ("model", "data", "router", "lifecycle", "scenario", "governance", "lifecycle/spawn")
TEXTS = (
    "",
    "null",
    "-1",
    "0",
    "1e400",
    "99999999999999999999",
    "nan",
    "true",
    "[]",
    "[1,[2,[3]]]",
    "{a:1}",
    "{a:{b:[",
    "'",
    "'../../../etc/passwd'",
    "${oc.env:HOME}",
    "${seed}",
    "${model}",
    "${nowhere}",
    "${",
    "a,b",
    "range(1,3)",
    "\u202eab",
    "\x1b[31m",
    "x" * 5000,
    "[" * 300,
    "(((",
    "a=b=c",
    "!!python/object/apply:os.system [touch called]",
)
HOSTILE = (
    "+model._target_=os.mkdir +model.path=called",
    "model._target_=os.mkdir",
    "++data._target_=subprocess.call ++data._args_=[[touch,called]]",
    "+_target_=os.mkdir",
    "~model",
    "~seed",
    "+typo=1",
    "hydra.run.dir=called",
    "hydra/launcher=nowhere",
    "lifecycle._target_=os.mkdir lifecycle.path=called",
    "hydra.searchpath=[file:///nowhere]",
    "=",
    "==1",
    "model.=1",
    ".seed=1",
    "model..top_k=1",
    "seed",
    "@x",
    "model@training=nano",
    "--cfg nothing",
    "--package nowhere --cfg job",
    "--config-dir /nowhere",
    "--multirun seed=1,",
    "--resolve",
    "-x",
)


def override(draw: random.Random) -> list[str]:
    kind = draw.randrange(4)
    if kind == 0:
        return draw.choice(HOSTILE).split(" ")
    prefix = draw.choice(("", "", "", "+", "++", "~"))
    key = draw.choice(GROUPS) if kind == 1 else draw.choice(KEYS)
    return [f"{prefix}{key}={draw.choice(TEXTS)}"]


def spoiled_override(draw: random.Random) -> list[str]:
    text = draw.choice((*nano.RUN, "lifecycle/spawn=eager", "model.top_k=2"))
    data = fuzzing.spoil_bytes(text.encode(), draw).replace(b"\x00", b"")
    return [data.decode("utf-8", errors="replace")]


@pytest.mark.tries(1, 1, 40)
def test_hostile_overrides(number: int, run_command: Commands, place: Path, count: Figures) -> None:
    draw, cases = random.Random(number), []
    for case in range(PER_BATCH):
        cwd = place / str(case)
        cwd.mkdir()
        given = [part for _ in range(draw.choice((1, 1, 2, 4))) for part in override(draw)]
        if draw.random() < 0.3:
            given += spoiled_override(draw)
        given += draw.choice(([], ["--cfg", "job"]))
        cases.append((cwd, ["train", *given]))
    fuzzing.run_cases(run_command, place, cases, count, "hostile configurations")
    check_nothing_was_called(place)


def check_nothing_was_called(place: Path) -> None:
    """``hydra.run.dir=called`` makes a run folder; whatever else were called makes a bare one."""
    for path in place.rglob("called"):
        assert path.is_dir()
        assert (path / ".hydra").is_dir()
