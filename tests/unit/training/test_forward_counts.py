"""Tokens that are read without being trained on: counted, and kept across a resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NANO

from chronorun.config.compose import compose_run
from chronorun.tracking import build_trackers
from chronorun.training import run_training

CONTEXT, BATCH = 64, 4
PLANT = ("scenario=planted_redundancy", "scenario.start_step=10")


@pytest.fixture(autouse=True)
def _private_cache(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONORUN_CACHE", str(cache_dir))


def train(run_dir: Path, *overrides: str) -> dict[str, Any]:
    config, composed = compose_run([*NANO, "tracking=no_wandb", *overrides])
    return run_training(config, composed, run_dir, build_trackers(config, run_dir, quiet=True))


def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the tokens of each forward of the model in evaluation mode."""
    from chronorun.model import GPT

    seen: list[int] = []
    original = GPT.forward

    def forward(self: GPT, tokens_BS: torch.Tensor, *rest: Any) -> Any:
        if not self.training:
            seen.append(tokens_BS.numel())
        return original(self, tokens_BS, *rest)

    monkeypatch.setattr(GPT, "forward", forward)
    return seen


def test_validation_counts_each_checkpoint_and_the_end(tmp_path: Path) -> None:
    summary = train(tmp_path / "run")
    # Four checkpoints of one batch; at the end two, and one more for each of several domains.
    domains = len(summary["val_loss_by_domain"])
    assert summary["eval_tokens"] == (4 + 2 + domains) * BATCH * CONTEXT
    assert summary["probe_tokens"] == 0


def test_all_forwards_beside_training_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = forwards(monkeypatch)
    summary = train(tmp_path / "run", *PLANT, "lifecycle=aggressive", "training.max_steps=80")
    assert summary["probe_tokens"] > 0
    assert sum(seen) == summary["eval_tokens"] + summary["probe_tokens"]


def test_a_resumed_run_counts_like_one_never_stopped(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *PLANT, "run_id=same")
    # One forward before the plant and one after it, of 8 sequences each.
    assert whole["probe_tokens"] == 2 * 8 * CONTEXT
    train(tmp_path / "cut", *PLANT, "run_id=same")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_00000040")
    resumed = train(tmp_path / "cut", *PLANT, "run_id=same", "resume=auto")
    for name in ("eval_tokens", "probe_tokens", "tokens", "val_loss"):
        assert resumed[name] == whole[name], name


def test_a_probe_counts_and_reads_the_same_again() -> None:
    from chronorun.data import load_corpus
    from chronorun.model import GPT
    from chronorun.training.probe import Probe

    config, _ = compose_run([*NANO])
    corpus = load_corpus(config.data, config.tokenizer, min_tokens=CONTEXT + 1)
    model = GPT(config.model, config.router, corpus.vocab_size, generator=torch.Generator())
    probe = Probe(config, model, corpus.split("probe"), torch.device("cpu"))
    one, two = probe(10), probe(10)
    assert np.float64(one).hex() == np.float64(two).hex()
    assert probe.tokens == 2 * config.lifecycle.probe_batch_size * CONTEXT
