"""A run keeps the text it was started with, and what is wrong with it is told before a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import NANO

from chronorun.config.compose import compose_run
from chronorun.errors import UserError
from chronorun.tracking import build_trackers
from chronorun.training import run_training
from chronorun.training.trainer import Trainer

LINES = "the quick brown fox jumps over the lazy dog {}\n"
SHORT = ("training.eval_interval=2", "training.checkpoint_interval=2", "tracking=no_wandb")


class Run:
    """Trains on ``book.txt`` of a folder, and goes on from it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.run_dir = folder, folder / "outputs" / "r"
        self.book = folder / "book.txt"
        self.book.write_text("".join(LINES.format(i) for i in range(1500)))

    def train(self, steps: int, *overrides: str) -> dict[str, Any]:
        asked = [f"data.files={self.book}", f"data.cache_dir={self.folder / 'cache'}"]
        last = [f"training.max_steps={steps}", *overrides]
        config, composed = compose_run([*NANO, "data=text", *SHORT, *asked, *last])
        trackers = build_trackers(config, self.run_dir, quiet=True)
        return run_training(config, composed, self.run_dir, trackers)

    def go_on(self, steps: int, *overrides: str) -> dict[str, Any]:
        return self.train(steps, f"resume={self.run_dir}", *overrides)

    def contents(self) -> dict[str, bytes]:
        files = [path for path in self.run_dir.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.run_dir)): path.read_bytes() for path in files}

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / "run_manifest.json").read_text())
        return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


BPE = ("tokenizer=bpe", "tokenizer.vocab_size=270")


@pytest.mark.parametrize("tokenizer", [(), BPE])
def test_a_resume_on_another_text_is_refused_and_touches_nothing(
    run: Run, tokenizer: tuple[str, ...]
) -> None:
    run.train(2, *tokenizer)
    before = run.contents()
    run.book.write_text(run.book.read_text().replace("fox", "cat"))
    with pytest.raises(UserError) as error:
        run.go_on(4, *tokenizer)
    was = run.manifest()["corpus_hash"][:12]
    assert f"expected {was} as in {run.run_dir / 'run_manifest.json'}" in str(error.value)
    assert str(error.value).endswith(
        "; bring it back, start a new run, or add data.accept_changes=true to go on with the run's "
        "own tokenizer"
    )
    assert run.contents() == before


def test_another_text_is_read_with_the_runs_own_tokenizer_when_accepted(run: Run) -> None:
    run.train(2, *BPE)
    tokenizer = (run.run_dir / "tokenizer/tokenizer.json").read_bytes()
    was = run.manifest()["corpus_hash"]
    run.book.write_text(run.book.read_text().replace("fox", "zebra"))
    summary = run.go_on(4, *BPE, "data.accept_changes=true")
    assert summary["steps"] == 4
    assert (run.run_dir / "tokenizer/tokenizer.json").read_bytes() == tokenizer
    assert run.manifest()["corpus_hash"] != was
    # What it goes on with is now its text: the next resume needs no leave.
    assert run.go_on(6, *BPE)["steps"] == 6
    assert (run.run_dir / "tokenizer/tokenizer.json").read_bytes() == tokenizer


def test_another_tokenizer_of_the_same_text_is_refused(run: Run) -> None:
    run.train(2, *BPE)
    saved = run.run_dir / "tokenizer/tokenizer.json"
    saved.write_bytes(saved.read_bytes() + b"\n")
    with pytest.raises(UserError, match="the tokenizer made from this text is another one than"):
        run.go_on(4, *BPE)


def test_a_lost_tokenizer_is_written_anew(run: Run) -> None:
    run.train(2, *BPE)
    saved = run.run_dir / "tokenizer/tokenizer.json"
    was = saved.read_bytes()
    saved.write_bytes(was[:-20])
    run.go_on(4, *BPE)
    assert saved.read_bytes() == was


def test_what_cannot_be_compared_is_told(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run.train(2)
    (run.run_dir / "run_manifest.json").write_text("{oops")
    run.go_on(4)
    told = (run.run_dir / "train.log").read_text() + capfd.readouterr().err
    assert "cannot be read; whether the text has changed is not known" in told


def test_a_text_that_moved_is_the_same_text(run: Run) -> None:
    run.train(2)
    run.book = run.book.rename(run.folder / "elsewhere.txt")
    assert run.go_on(4)["steps"] == 4


def test_a_failing_last_evaluation_loses_no_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Run(run.folder / "whole")

    def fails(self: Trainer) -> dict[str, float]:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_final_losses", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            run.train(3)
    assert (run.run_dir / "checkpoints/step_00000003/MANIFEST.json").is_file()
    assert run.go_on(3)["val_loss"] == whole.train(3)["val_loss"]


def test_many_domains_cost_no_more_than_few(run: Run) -> None:
    few = run.train(2)["eval_tokens"]
    many = Run(run.folder / "many")
    for number in range(40):
        (many.folder / f"n{number}.txt").write_text(LINES.format(number) * 40)
    files = f"data.files={many.folder}/n*.txt"
    summary = many.train(2, files, "data.domain_by=file", "model.context_length=32")
    assert 1 < len(summary["val_loss_by_domain"]) <= 8
    assert summary["eval_tokens"] <= 2 * few


def test_a_domain_without_a_window_is_told_and_left_out(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "short.txt").write_text(LINES.format(0) * 3)
    files = f"data.files=[{run.book},{run.folder / 'short.txt'}]"
    summary = run.train(2, files, "data.domain_by=file")
    assert list(summary["val_loss_by_domain"]) == ["book.txt"]
    told = (run.run_dir / "train.log").read_text() if (run.run_dir / "train.log").exists() else ""
    assert "1 of 2 domains are too short" in told + capfd.readouterr().err


def test_a_shift_to_a_domain_without_a_window_is_refused_before_a_step(run: Run) -> None:
    (run.folder / "short.txt").write_text(LINES.format(0) * 3)
    files = f"data.files=[{run.book},{run.folder / 'short.txt'}]"
    shift = ("scenario=domain_shift", "scenario.shift_from=book.txt", "scenario.start_step=1")
    with pytest.raises(UserError, match=r"^scenario: domain short.txt has \d+ tokens in the val"):
        run.train(4, files, "data.domain_by=file", *shift, "scenario.shift_to=short.txt")
    assert not (run.run_dir / "metrics.jsonl").read_bytes()
