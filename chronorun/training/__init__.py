"""The training loop, checkpoints and run folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.core.exports import lazy_exports

if TYPE_CHECKING:
    from chronorun.training.runner import run_training

__all__ = ["run_training"]

__getattr__, __dir__ = lazy_exports(__name__, {"run_training": "runner"})
