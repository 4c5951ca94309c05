"""Hostile JSON lines: what reads logs says in one line what is wrong, or shows what it can."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from warm.commands import Commands

from reliability import fuzzing
from reliability.figures import Figures

PER_BATCH = 50
READERS = (
    ("inspect", "{log}"),
    ("inspect", "{log}", "--json"),
    ("inspect", "{log}", "--csv"),
    ("inspect", "{run}"),
    ("inspect", "{run}", "--json"),
    ("inspect", "{run}", "--why", "L0_E2"),
    ("inspect", "{run}", "--html", "page.html"),
    ("replay", "{run}"),
    ("replay", "{run}", "lifecycle.prune_patience=3", "--json"),
)


@pytest.fixture(scope="module")
def original(uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without checkpoints."""
    target = tmp_path_factory.mktemp("original") / "x"
    shutil.copytree(uninterrupted, target, ignore=shutil.ignore_patterns("checkpoints", "archive"))
    return target


def spoil(path: Path, draw: random.Random) -> None:
    if draw.random() < 0.5:
        path.write_bytes(fuzzing.spoil_bytes(path.read_bytes(), draw))
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    place = draw.randrange(len(lines))
    record = fuzzing.spoil_value(json.loads(lines[place]), draw)
    lines[place] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.tries(1, 2, 40)
def test_readers_of_logs(
    number: int, run_command: Commands, place: Path, original: Path, count: Figures
) -> None:
    draw, cases = random.Random(number), []
    names = sorted(path.name for path in original.glob("*.jsonl"))
    for case in range(PER_BATCH):
        run = place / str(case)
        shutil.copytree(original, run)
        log = run / draw.choice(names)
        spoil(log, draw)
        where = {"log": log.name, "run": "."}
        cases.append((run, [part.format(**where) for part in draw.choice(READERS)]))
    fuzzing.run_cases(run_command, place, cases, count, "hostile JSON lines")
