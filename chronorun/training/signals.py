"""Ctrl-C and SIGTERM: the first asks the loop to save and stop, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager that turns signals into ``signal_number`` (None: nobody asked to stop).

    With ``deaf_afterwards`` SIGTERM is ignored once it is left: ``torchrun`` sends it to all
    processes as soon as one has ended, and each is to finish what it has to write and to say.
    """

    def __init__(self, *, deaf_afterwards: bool = False) -> None:
        self.signal_number: int | None = None
        self.deaf_afterwards = deaf_afterwards
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            # As if nobody had listened: whoever started us sees a process ended by the signal.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal_number = number

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
            deaf = self.deaf_afterwards and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if deaf else handler)
