"""What goes wrong in one process of several. Each fault notes when it struck."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any


def _strike() -> None:
    mark = Path(os.environ["RANK_FILES"]) / "struck"
    if not mark.exists():
        mark.write_text(str(time.time()), encoding="utf-8")


def other_input(step: int) -> None:
    """Let the policies read another number, in its last digits."""
    from chronorun.lifecycle.observe.reader import SignalReader

    read = SignalReader.read

    def reading(self: Any, x: Any) -> Any:
        signals = read(self, x)
        if x.step < step:
            return signals
        _strike()
        return replace(signals, layer_entropy=signals.layer_entropy * (1.0 + 1e-15) + 1e-15)

    SignalReader.read = reading  # type: ignore[method-assign]


def other_weights() -> None:
    """Begin with one other weight."""
    from chronorun.model import GPT

    initialize = GPT.initialize

    def initializing(self: Any, generator: Any) -> None:
        initialize(self, generator)
        self.embedding.weight.data[3, 5] += 1e-7
        _strike()

    GPT.initialize = initializing  # type: ignore[method-assign]


def other_count(step: int) -> None:
    """Count one token more."""
    from chronorun.telemetry import RoutingRecorder

    flush = RoutingRecorder.flush

    def flushing(self: Any) -> Any:
        window = flush(self)
        if window.steps[-1] >= step:
            _strike()
            window.layers[1].counts[0, 0] += 1
        return window

    RoutingRecorder.flush = flushing  # type: ignore[method-assign]


def other_edit(step: int) -> None:
    """Let an edit before a step come out differently: another router row than elsewhere."""
    from chronorun.lifecycle.edit.population import Population

    begin = Population.begin_step

    def beginning(self: Any, at: int) -> Any:
        done = begin(self, at)
        if done and at >= step:
            _strike()
            self.surgeon.layers[done[0].layer_id].slot_tensors()["router.weight"].data[0] += 1.0
        return done

    Population.begin_step = beginning  # type: ignore[method-assign]


def signal_before(step: int, number: int) -> None:
    """Get a signal right before a step."""
    from chronorun.training.stepping import Stepper

    take = Stepper.take

    def taking(self: Any, at: int, *arguments: Any) -> Any:
        if at == step:
            _strike()
            os.kill(os.getpid(), signal.Signals(number))
        return take(self, at, *arguments)

    Stepper.take = taking  # type: ignore[method-assign]
