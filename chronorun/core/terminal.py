"""Lines for a person at a terminal, and streams that can be written to whatever is behind them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from chronorun.core.text import one_line


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    tell(f"chronorun: warning: {one_line(message)}")


def tell(line: str) -> None:
    """Print a line on standard error; where nobody can read it, go on all the same."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def open_streams() -> None:
    """Let standard output and error take any text, also where a shell has closed them.

    A terminal that knows no Unicode sees escapes. What is closed (``>&-``) becomes the null device:
    the next file that is opened would otherwise get its number, and with it what others print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given out.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _writable(sys.stdout)
    sys.stderr = _writable(sys.stderr)


def _writable(stream: TextIO | None) -> TextIO:
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream


def flush_streams() -> OSError | None:
    """Write what is still in the buffers; return why standard output did not take it.

    A stream that fails loses the rest of it, so that the interpreter has nothing to complain about.
    """
    lost: OSError | None = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            lost = error if stream is sys.stdout else lost
            _discard(stream)
    return lost


def _discard(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    with suppress(OSError):
        stream.flush()
