"""The main job, run as a person runs it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import NANO, Chronorun, RunOf, process_environment

from chronorun.core.threads import usable_cores

LONG = (*NANO, "training.max_steps=200")
PLAIN = ("plain", *NANO)
LOGS = ("metrics", "routing_events", "snapshots", "control_decisions")


def rows(path: Path, *, without: tuple[str, ...] = ()) -> list[dict[str, object]]:
    parsed = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k not in without} for row in parsed]


def loss_bits(run: Path) -> list[tuple[object, str, str]]:
    return [
        (row["step"], float(row["train/loss"]).hex(), float(row.get("val/loss", 0.0)).hex())  # type: ignore[arg-type]
        for row in rows(run / "metrics.jsonl")
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert loss_bits(one) == loss_bits(other)
    for log in LOGS:
        hidden = ("timestamp", "run_id")
        assert rows(one / f"{log}.jsonl", without=hidden) == rows(
            other / f"{log}.jsonl", without=hidden
        ), log
    newest = sorted((one / "checkpoints").iterdir())[-1].name
    for tensors in ("model.safetensors", "optimizer.safetensors"):
        assert (one / "checkpoints" / newest / tensors).read_bytes() == (
            other / "checkpoints" / newest / tensors
        ).read_bytes(), tensors


def cut_back(run: Path, target: Path, step: int) -> None:
    """Copy a run as if it had been killed after it saved a step; its logs go on beyond."""
    shutil.copytree(run, target)
    for checkpoint in (target / "checkpoints").iterdir():
        if checkpoint.name != f"step_{step:08d}":
            shutil.rmtree(checkpoint)


def test_train_writes_every_file_of_a_run_folder(run_of: RunOf) -> None:
    run = run_of(*PLAIN)
    names = {path.name for path in run.iterdir()}
    assert {
        "run_manifest.json",
        "config.yaml",
        ".hydra",
        "metrics.jsonl",
        "routing_events.jsonl",
        "snapshots.jsonl",
        "control_decisions.jsonl",
        "timings.jsonl",
        "checkpoints",
        "tokenizer",
        "priors.json.gz",
        "train.log",
        "summary.json",
    } <= names
    assert (run.parent / "run").resolve() == run.resolve()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "completed"
    assert summary["steps"] == 40
    assert summary["tokens"] == 40 * 4 * 64
    assert summary["population"] == {"0": 8, "1": 8}
    assert summary["parameters"]["active"] < summary["parameters"]["total"]
    assert set(summary["lifecycle"]) == {"SPAWN", "PRUNE", "SPLIT", "MERGE", "REVIVE", "ROLLBACK"}
    assert [row["step"] for row in rows(run / "snapshots.jsonl")] == [10, 20, 30, 40]
    assert len(rows(run / "routing_events.jsonl")) == 40 * 2
    assert "Traceback" not in (run.parents[1] / "printed").read_text(encoding="utf-8")


def test_two_equal_runs_are_bit_equal(
    run_of: RunOf, chronorun_process: Chronorun, tmp_path: Path
) -> None:
    # The other one is a process of its own, with a hash seed of its own.
    assert chronorun_process("train", *NANO, "run_id=two").returncode == 0
    assert_same_run(run_of(*PLAIN), tmp_path / "outputs" / "two")


@pytest.mark.parametrize(
    "extra",
    [
        ("router=loss_free",),
        ("router=noisy", "model.dropout=0.1"),
        pytest.param(
            ("router.capacity_factor=1.0", "training.grad_accum_steps=2"), marks=pytest.mark.whole
        ),
        pytest.param(
            ("scenario=collapse", "scenario.severity=mild", "scenario.start_step=8"),
            marks=pytest.mark.whole,
        ),
    ],
    ids=["loss_free", "noisy_dropout", "capacity_accumulation", "collapse"],
)
def test_resume_is_bit_equal_to_a_run_never_stopped(
    chronorun: Chronorun, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    # The schedule depends on max_steps, so a finished run is cut back to a saved step instead:
    # 17 lies inside a telemetry window, off every interval.
    often = ("training.checkpoint_interval=17", "training.keep_last=9")
    assert chronorun("train", *NANO, *extra, *often, "run_id=whole").returncode == 0
    whole, folder = tmp_path / "outputs" / "whole", tmp_path / "outputs" / "cut"
    cut_back(whole, folder, 17)
    done = chronorun("train", f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, folder)
    assert list(folder.glob("metrics.jsonl.orphaned-*"))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.whole)],
)
def test_a_signal_saves_and_says_how_to_resume(
    run_of: RunOf, chronorun: Chronorun, tmp_path: Path, number: int, code: int, cache_dir: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "chronorun", "train", *LONG, "run_id=stopped"],
        cwd=tmp_path,
        env=process_environment(cache_dir),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "outputs" / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        metrics.exists() and metrics.read_bytes().count(b"\n") >= 3
    ):
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "chronorun train resume=" in err
    assert "Traceback" not in err
    assert chronorun("train", "run_id=stopped", "resume=auto").returncode == 0
    assert_same_run(run_of("long", *LONG), tmp_path / "outputs" / "stopped")


def test_a_non_finite_loss_stops_before_the_update(chronorun: Chronorun, tmp_path: Path) -> None:
    done = chronorun("train", *NANO, "run_id=bad", "optimizer.lr=1e30", "optimizer.grad_clip=0")
    assert done.returncode == 4
    assert "is not finite" in done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads((tmp_path / "outputs/bad/summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "failed"


def test_an_existing_run_is_refused_and_untouched(
    run_of: RunOf, chronorun: Chronorun, tmp_path: Path
) -> None:
    shutil.copytree(run_of(*PLAIN), tmp_path / "outputs" / "taken")
    before = (tmp_path / "outputs/taken/metrics.jsonl").read_bytes()
    done = chronorun("train", *NANO, "run_id=taken")
    assert done.returncode == 2
    assert "resume=auto" in done.stderr
    assert (tmp_path / "outputs/taken/metrics.jsonl").read_bytes() == before


def test_governance_leaves_an_unstressed_run_bit_identical(
    run_of: RunOf, chronorun: Chronorun, tmp_path: Path
) -> None:
    # The controller abstains while pressure stays below 0.01: a small model after its first steps.
    done = chronorun("train", *NANO, "run_id=off", "governance=off")
    assert done.returncode == 0, done.stderr
    on, off = run_of(*PLAIN), tmp_path / "outputs/off"
    assert all(row["computed"]["abstain"] for row in rows(on / "control_decisions.jsonl"))  # type: ignore[index]
    assert loss_bits(on) == loss_bits(off)
    assert not (off / "control_decisions.jsonl").exists()


def test_sample_continues_a_prompt(run_of: RunOf, chronorun: Chronorun) -> None:
    run = str(run_of(*PLAIN))
    one, two = (chronorun("sample", run, "--prompt", "def ") for _ in range(2))
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout
    assert len(one.stdout) > len("def ")


@pytest.mark.parametrize(
    "overrides",
    [
        ("tokenizer=bpe", "tokenizer.vocab_size=300"),
        ("model.num_experts=16", "model.top_k=1"),
        pytest.param(("router=softmax_all",), marks=pytest.mark.whole),
        ("model.n_layers=4", "model.moe_stride=2"),
        ("telemetry=off", "governance=off"),
    ],
    ids=lambda o: o[0],
)
def test_the_choices_of_the_command_line_train(
    chronorun: Chronorun, overrides: tuple[str, ...]
) -> None:
    done = chronorun("train", *NANO, "training.max_steps=10", *overrides, "run_id=x")
    assert done.returncode == 0, done.stderr


def test_a_plain_file_trains(chronorun: Chronorun, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    done = chronorun(
        "train", *NANO, "training.max_steps=10", "data=text", "data.files=book.txt", "run_id=book"
    )
    assert done.returncode == 0, done.stderr


def threads_of(run: Path) -> int:
    return int(json.loads((run / "run_manifest.json").read_text())["threads"])


@pytest.mark.parametrize(
    "value",
    ["1,4", *(pytest.param(value, marks=pytest.mark.whole) for value in ("abc", "1", "0"))],
)
def test_the_threads_of_the_environment_are_used_and_written_down(
    chronorun_process: Chronorun, tmp_path: Path, value: str
) -> None:
    only = [part for part in NANO if not part.startswith("training.threads")]
    short = ("training.max_steps=1", "optimizer.warmup_steps=0", "run_id=r")
    done = chronorun_process("train", *only, *short, env={"OMP_NUM_THREADS": value})
    assert done.returncode == 0, done.stderr
    wanted = 1 if value.startswith("1") else usable_cores()
    assert threads_of(tmp_path / "outputs" / "r") == wanted


@pytest.mark.whole
def test_a_schedule_that_does_not_fit_is_told_on_the_screen_and_in_the_log(
    chronorun: Chronorun, tmp_path: Path
) -> None:
    short = ("training.max_steps=10", "run_id=r")
    warmup = (
        "optimizer.warmup_steps=50 is longer than the run of 10 steps: the learning rate gets to "
        "20% of optimizer.lr; lower optimizer.warmup_steps"
    )
    done = chronorun("train", *NANO, *short, "optimizer.warmup_steps=50")
    log = tmp_path / "outputs" / "r" / "train.log"
    assert done.returncode == 0, done.stderr
    assert warmup in done.stderr
    assert warmup in log.read_text()

    short = ("training.max_steps=10", "run_id=s", "optimizer.warmup_steps=2")
    assert chronorun("train", *NANO, *short).returncode == 0
    done = chronorun("train", "resume=outputs/s", "training.max_steps=20")
    assert done.returncode == 0, done.stderr
    told = (
        "the learning rate jumps from 0.0003 to 0.00177 at step 10: the schedule now ends at "
        "training.max_steps=20, not at 10"
    )
    assert told in done.stderr
    assert told in (tmp_path / "outputs" / "s" / "train.log").read_text()


def test_what_an_older_version_trained_at_top_1_can_still_be_read(
    chronorun: Chronorun, tmp_path: Path
) -> None:
    what = ("model.top_k=1", "lifecycle=aggressive", "training.max_steps=20", "run_id=old")
    assert chronorun("train", *NANO, *what).returncode == 0
    saved = tmp_path / "outputs" / "old" / "config.yaml"
    text = saved.read_text()
    assert text.count("gate_order: auto") == 1
    sampled = [chronorun("sample", "outputs/old", "--prompt", "a", "--tokens", "20")]
    saved.write_text(text.replace("gate_order: auto", "gate_order: topk_then_softmax"))
    sampled.append(chronorun("sample", "outputs/old", "--prompt", "a", "--tokens", "20"))
    # It is computed as it was trained: with gates of 1.
    assert [done.returncode for done in sampled] == [0, 0]
    assert sampled[0].stdout != sampled[1].stdout
    assert chronorun("inspect", "outputs/old").returncode == 0
    done = chronorun("train", "resume=outputs/old", "training.max_steps=30")
    assert done.returncode == 2
    assert "start a new run, under another run_id and without resume" in done.stderr
