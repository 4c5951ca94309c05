"""What is done inside a child before its command: nothing in the product knows of it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from reliability.rank_faults import (
    other_count,
    other_edit,
    other_input,
    other_weights,
    signal_before,
)
from reliability.wandb_hooks import fake_wandb, no_wandb

__all__ = [
    "count_moments",
    "fail_disk",
    "fake_wandb",
    "no_wandb",
    "other_count",
    "other_edit",
    "other_input",
    "other_weights",
    "poison",
    "signal_at",
    "signal_before",
    "watch_resources",
]


def regions() -> dict[str, Any]:
    """Return the functions that moments are counted in, by name."""
    from chronorun.lifecycle.edit.surgery import Surgeon
    from chronorun.training.checkpoints.folder import save_checkpoint
    from chronorun.training.stepping import Stepper

    return {
        "save": save_checkpoint.__code__,
        "edit": Surgeon.apply.__code__,
        "step": Stepper.take.__code__,
    }


class Moments:
    """Counts calls and returns, of Python and of C: between two of them nothing of ours runs."""

    def __init__(self, region: str | None) -> None:
        self.code = regions()[region] if region else None
        self.region: FrameType | None = None
        self.calls = -1
        self.ticks = 0
        self.per_call: list[int] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.code is None:
            self.ticks += 1
            self.reached(0, self.ticks)
        elif self.region is not None:
            self.ticks += 1
            self.per_call[self.calls] = self.ticks
            self.reached(self.calls, self.ticks)
            if event == "return" and frame is self.region:
                self.region = None
        elif event == "call" and frame.f_code is self.code:
            self.region, self.calls, self.ticks = frame, self.calls + 1, 0
            self.per_call.append(0)

    def reached(self, call: int, tick: int) -> None:
        """Called at every moment."""

    def found(self) -> list[int]:
        """Return the number of moments of each call."""
        return self.per_call if self.code is not None else [self.ticks]


class SignalAt(Moments):
    """Sends this process a signal at one moment, ``times`` times."""

    def __init__(self, region: str | None, call: int, tick: int, number: int, times: int) -> None:
        super().__init__(region)
        self.at, self.number, self.times = (call, tick), number, times

    def reached(self, call: int, tick: int) -> None:
        if self.times and (call, tick) >= self.at:
            self.times -= 1
            os.kill(os.getpid(), self.number)


def _watch_training(profiler: Any, then: Callable[[], object] = lambda: None) -> None:
    import chronorun.training
    from chronorun.training.runner import run_training

    def watched(*arguments: Any) -> Any:
        sys.setprofile(profiler)
        try:
            return run_training(*arguments)
        finally:
            sys.setprofile(None)
            then()

    vars(chronorun.training)["run_training"] = watched


def count_moments(path: str) -> None:
    """Write how many moments a run has: in each call of each region, and in all."""
    counters = {name: Moments(name) for name in (*regions(), None)}

    def count(*event: Any) -> None:
        for counter in counters.values():
            counter(*event)

    def write() -> None:
        found = {name or "": counter.found() for name, counter in counters.items()}
        Path(path).write_text(json.dumps(found), encoding="utf-8")

    _watch_training(count, write)


def signal_at(
    region: str | None, call: int, tick: int, number: int = signal.SIGKILL, times: int = 1
) -> None:
    """Send a signal at the ``tick``-th moment (of the ``call``-th call of a region)."""
    _watch_training(SignalAt(region, call, tick, number, times))


def fail_disk(folder: str, at: int, how: int, region: str | None) -> None:
    """Let file operations below a folder fail: from the ``at``-th on, or the ``at``-th save's."""
    import chronorun.training
    from chronorun.training import trainer
    from chronorun.training.runner import run_training
    from reliability.faults import Disk, faulty

    if region is None:

        def whole(*arguments: Any) -> Any:
            with faulty(Disk(Path(folder), at, how, lasting=True)):
                return run_training(*arguments)

        vars(chronorun.training)["run_training"] = whole
        return
    real, saves = trainer.save_checkpoint, iter(range(10_000))

    def save(*arguments: Any) -> Any:
        if next(saves) < at:
            return real(*arguments)
        with faulty(Disk(Path(folder), 4, how, lasting=True)):
            return real(*arguments)

    trainer.save_checkpoint = save


def poison(what: str, value: float, step: int, path: str) -> None:
    """Spoil one loss, gradient or router logit of a step; write whether weights changed."""
    from chronorun.training import trainer

    take = trainer.Stepper.take

    def poisoned(self: Any, at: int, *arguments: Any) -> Any:
        if at != step:
            return take(self, at, *arguments)
        before = _weights(self.model)
        _POISONS[what](self.model, value)
        try:
            return take(self, at, *arguments)
        finally:
            Path(path).write_text(str(_weights(self.model) == before), encoding="utf-8")

    trainer.Stepper.take = poisoned  # type: ignore[method-assign]


def _weights(model: Any) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in model.parameters()]


def _spoil_loss(model: Any, value: float) -> None:
    import dataclasses

    model.register_forward_hook(
        lambda _module, _inputs, out: dataclasses.replace(out, loss=out.loss * value)
    )


def _spoil_gradient(model: Any, value: float) -> None:
    def spoil(gradient: Any) -> Any:
        gradient = gradient.clone()
        gradient.flatten()[0] = value
        return gradient

    list(model.parameters())[3].register_hook(spoil)


def _spoil_logit(model: Any, value: float) -> None:
    router = model.moe_layers()[1].router
    real = router.logits

    def logits(x_TD: Any) -> Any:
        found = real(x_TD).clone()
        found[5, 2] = value
        return found

    router.logits = logits


_POISONS = {"loss": _spoil_loss, "gradient": _spoil_gradient, "router logit": _spoil_logit}


def watch_resources(every: int, path: str) -> None:
    """Write every so many steps: resident bytes, open files, optimizer entries of no parameter."""
    from chronorun.training import trainer

    take = trainer.Stepper.take

    def watched(self: Any, at: int, *arguments: Any) -> Any:
        result = take(self, at, *arguments)
        if (at + 1) % every == 0:
            sample = {"step": at + 1, **_resources(self.model, self.optimizer)}
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(sample) + "\n")
        return result

    trainer.Stepper.take = watched  # type: ignore[method-assign]


def _resources(model: Any, optimizer: Any) -> dict[str, Any]:
    import gc

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    live = {id(p): (name, p.shape) for name, p in model.named_parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    kept = {id(p) for p in optimizer.state}
    stray = [live.get(i, ("gone", ()))[0] for i in (held ^ live.keys()) | (kept ^ live.keys())]
    stray += [
        live[id(p)][0]
        for p, entries in optimizer.state.items()
        if id(p) in live and any(e.shape != p.shape for k, e in entries.items() if k != "step")
    ]
    files = len(list(Path("/proc/self/fd").iterdir()))
    return {"resident": pages * 4096, "files": files, "stray_entries": sorted(stray)}
