"""A training run in the hands of a benchmark: the steps and evaluation checkpoints of the trainer.

Left out are validation, trackers and saved checkpoints, which do not depend on who watches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from chronorun.config.compose import compose_run
from chronorun.core.state import pack
from chronorun.data import load_corpus
from chronorun.model import GPT
from chronorun.training.checkpoints.folder import optimizer_tensors, save_checkpoint
from chronorun.training.context import RunContext
from chronorun.training.heartbeat import Heartbeat
from chronorun.training.logs import RunLogs
from chronorun.training.optimizer import build_optimizer
from chronorun.training.probe import Probe
from chronorun.training.stepping import Stepper, StepResult


class Timed:
    """A function, and the CPU seconds that its calls took so far."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls, self.seconds = 0, 0.0

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        began = time.process_time()
        result = self.function(*arguments)
        self.seconds += time.process_time() - began
        self.calls += 1
        return result


class BenchmarkRun:
    """The run that ``chronorun train <overrides>`` would make, step by step."""

    def __init__(self, overrides: list[str], folder: Path, device: str = "cpu") -> None:
        config = self.config = compose_run(["run_id=benchmark", *overrides])[0]
        self.corpus = load_corpus(config.data, config.tokenizer)
        on = torch.device(device)
        generator = torch.Generator().manual_seed(config.seed)
        vocabulary = self.corpus.vocab_size
        self.model = GPT(config.model, config.router, vocabulary, generator=generator)
        self.model.to(on)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.probe = Timed(Probe(config, self.model, self.corpus.split("probe"), on))
        self.logs, self.folder = RunLogs(folder), folder
        silent: Any = None
        context = RunContext(config, folder, on, self.corpus, self.logs, silent)
        self.heartbeat = Heartbeat(context, self.model, self.optimizer, self.probe)
        self.evaluation: Timed | None = None
        if self.heartbeat.lifecycle is not None:
            self.evaluation = Timed(self.heartbeat.lifecycle.evaluate)
            self.heartbeat.lifecycle.evaluate = self.evaluation  # type: ignore[method-assign]
        split = self.corpus.split("train")
        self.stepper = Stepper(config, self.model, self.optimizer, split, on)
        self.step = 0
        self.result: StepResult | None = None

    def take(self) -> None:
        """Take one training step."""
        self.heartbeat.begin_step(self.step)
        self.result = self.stepper.take(self.step, self.heartbeat.before_forward)
        self.step += 1
        self.heartbeat.end_step(self.step, self.result.loss)

    def beat(self) -> None:
        """Close the window: an evaluation checkpoint without its validation loss."""
        assert self.result is not None
        self.heartbeat.beat(self.step, self.result.loss.item(), 0.0)

    def save(self) -> None:
        """Save a checkpoint, as the trainer does."""
        state = {"heartbeat": self.heartbeat.state_dict(), "logs": self.logs.state()}
        plain, tensors = pack(state)
        parts = {
            "model": dict(self.model.state_dict()),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "state": tensors,
        }
        save_checkpoint(self.folder, self.step, parts, plain)
