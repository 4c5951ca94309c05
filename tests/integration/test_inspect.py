"""``chronorun inspect`` right after a training run, as a new user would ask it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Chronorun
from unit.analysis.inspect_here import errors

from chronorun.analysis.reading.run import read_records

EAGER = (
    "data=synthetic",
    "model=nano",
    "experiment=overprovisioned",
    "lifecycle=aggressive",
    "lifecycle.lifecycle_warmup_steps=20",
    "training.max_steps=120",
    "training.eval_interval=10",
    "training.eval_batches=1",
    "training.final_eval_batches=2",
    "training.batch_size=8",
    "training.threads=1",
    "tracking=no_wandb",
    "run_id=first",
)


@pytest.fixture
def trained(chronorun: Chronorun, tmp_path: Path) -> Path:
    done = chronorun("train", *EAGER)
    assert done.returncode == 0, done.stderr
    return tmp_path / "outputs/first"


def test_a_run_is_inspected_and_questioned(chronorun: Chronorun, trained: Path) -> None:
    log = trained / "lifecycle_decisions.jsonl"
    decisions = [record for _, record in read_records(log)]
    pruned = [d["expert_id"] for d in decisions if d["action"] == "PRUNE"]
    assert pruned

    shown = chronorun("inspect", "outputs/run/lifecycle_decisions.jsonl")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "run first, completed" in shown.stdout
    assert f"PRUNE {len(pruned)}" in shown.stdout

    found = json.loads(chronorun("inspect", "outputs/run", "--json").stdout)
    assert errors(found) == []
    assert [a["seq"] for a in found["actions"]] == [d["seq"] for d in decisions]
    summary = json.loads((trained / "summary.json").read_text())
    ends = {str(layer["layer_id"]): layer["end"] for layer in found["population"]}
    assert ends == summary["population"]

    why = json.loads(chronorun("inspect", "outputs/run", "--why", pruned[0], "--json").stdout)
    assert errors(why) == []
    assert why["why"]["answers"][0]["happened"] is True
    assert why["why"]["state"] == "archived"
    alive = next(iter(set(decisions[-1]["experts_after"]) - set(pruned)))
    why_not = json.loads(chronorun("inspect", "outputs/run", "--why", alive, "--json").stdout)
    answer = why_not["why"]["answers"][0]
    assert answer["happened"] is False
    assert "of 4 checkpoints" in answer["text"] or "(patience 4)" in answer["text"]
    assert why_not["why"]["held"]["dormancy"]["patience"] == 4

    for path in sorted(trained.glob("*.jsonl")):
        shown = chronorun("inspect", str(path))
        assert (shown.returncode, shown.stderr) == (0, ""), path
    follows = chronorun("inspect", "outputs/first", "--follow")
    assert follows.returncode == 0
    assert follows.stdout.count(": PRUNE ") == len(pruned)


def test_ctrl_c_ends_following_a_running_job(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "val/loss": 4.0}\n', encoding="utf-8")
    job = subprocess.Popen(
        [sys.executable, "-m", "chronorun", "inspect", str(tmp_path), "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline()
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=30)
    assert (job.returncode, said) == (130, "chronorun: error: interrupted\n")
