"""Ctrl-C and SIGTERM: the first asks the loop to save and stop, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

HANDLED = (signal.SIGINT, signal.SIGTERM)
ONE_REQUEST_S = 3.0
"""Within which the signals of a launch are one request to stop."""


class StopRequest:
    """Context manager that turns signals into ``signal_number`` (None: no request).

    A process that was ``launched`` by ``torchrun`` gets a signal twice: Ctrl-C goes to all of a
    terminal, a scheduler's SIGTERM to all of a job, and ``torchrun`` hands on what it gets itself.
    What comes within ``ONE_REQUEST_S`` of the first is the same request. Once the context is left,
    SIGTERM is ignored, which ``torchrun`` sends to all as soon as one has ended, and so is what
    stopped the run: each is to finish what it has to write and to say.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.signal_number: int | None = None
        self.launched = launched
        self._asked_at = 0.0
        self._previous: dict[int, Any] = {}

    def ask(self, number: int) -> None:
        """Ask to stop, as if this signal had come: another process of the run got it."""
        if self.signal_number is None:
            self._asked_at = time.monotonic()
            self.signal_number = number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.ask(number)
        elif not self.launched or time.monotonic() - self._asked_at > ONE_REQUEST_S:
            # As without a handler: the parent sees a process ended by the signal.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers; a run inside a worker thread goes without.
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._handle) for n in HANDLED}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            deaf = self.launched and number in (signal.SIGTERM, self.signal_number)
            signal.signal(number, signal.SIG_IGN if deaf else handler)
