"""Many hostile commands in one child, each with a time limit, all under a memory limit."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

CPU_LIMIT_S = 5.0
"""Of computing: a busy machine does not make a case hang."""
WALL_LIMIT_S = 60.0
"""For those that wait for something instead."""
MEMORY = 1 << 30
"""Bytes that a case may ask for beyond what a warm process has."""


class TookTooLong(BaseException):
    """A case did not end in time."""


def _late(number: int, frame: FrameType | None) -> None:
    raise TookTooLong


def stub_training() -> None:
    """Configurations are composed, checked and written, and nothing is trained."""
    import chronorun.training

    vars(chronorun.training)["run_training"] = lambda *_: {"val_loss": 1.0}


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_batch(cases: str, results: str, *, train: bool) -> int:
    """Run the cases of a file, ``[[cwd, [argument, ...]], ...]``, and write what came of each."""
    if not train:
        stub_training()
    _limit_memory()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _late)
    found = []
    for cwd, arguments in json.loads(Path(cases).read_text(encoding="utf-8")):
        found.append(_run(cwd, arguments))
        # Written each time: a case that kills the process is known by what is missing.
        Path(results).write_text(json.dumps(found), encoding="utf-8")
    return 0


def _run(cwd: str, arguments: list[str]) -> dict[str, Any]:
    from chronorun.cli.main import run_command_line

    os.chdir(cwd)
    start, begun = os.lseek(2, 0, os.SEEK_END), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_LIMIT_S)
    try:
        code = run_command_line(arguments)
    except TookTooLong:
        code = -signal.SIGALRM
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    return {"code": code, "cpu_s": time.process_time() - begun, "err": _since(start)}


def _since(start: int) -> str:
    with Path("/proc/self/fd/2").open("rb") as file:
        file.seek(start)
        return file.read().decode("utf-8", errors="replace")
