"""Stand-ins for the ``wandb`` library, put in place before a command imports it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class Library(ModuleType):
    """A ``wandb`` that raises in the one call it was told to."""

    def __init__(self, raising: str, saying: str) -> None:
        super().__init__("wandb")
        self.raising, self.saying = raising, saying
        self.summary: dict[str, Any] = {}

    def _call(self, name: str) -> Library:
        if name == self.raising:
            raise RuntimeError(self.saying)
        return self

    def setup(self, **_: Any) -> None:
        self._call("setup")

    def Settings(self, **_: Any) -> None:
        self._call("Settings")

    def Table(self, **_: Any) -> None:
        self._call("Table")

    def init(self, **_: Any) -> Library:
        return self._call("init")

    def log(self, *_: Any, **__: Any) -> None:
        self._call("log")

    def finish(self, **_: Any) -> None:
        self._call("finish")


def fake_wandb(raising: str, saying: str = "no") -> None:
    """Let one call of the library raise."""
    sys.modules["wandb"] = Library(raising, saying)


def no_wandb() -> None:
    """Let the import fail, as where the library is not installed."""
    sys.modules["wandb"] = None  # type: ignore[assignment]
