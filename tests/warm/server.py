"""A warm process that forks one child per command line: a kill then costs a run, not an import.

Started as ``python -m warm.server``; one JSON request a line in, one JSON reply a line out.
It never computes a gradient itself: autograd does not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

WARM = (
    "typer.main",
    "typer.completion",
    "pydantic.type_adapter",
    "hydra.main",
    "hydra._internal.hydra",
    "hydra._internal.utils",
    "hydra.plugins.plugin",
    "logging.config",
    "scipy.optimize",
    "numpy.testing",
    "charset_normalizer",
    "chronorun.cli.app",
    "chronorun.cli.train",
    "chronorun.cli.bench",
    "chronorun.config.hydra_bridge",
    "chronorun.config.compose",
    "chronorun.training.runner",
    "chronorun.tracking.group",
    "chronorun.analysis.report.page",
    "chronorun.analysis.replay.derive",
    "chronorun.bench.report.write",
    "torch.nn.parallel",
    "torch.distributed.rendezvous",
    "chronorun.training.data_parallel",
    "reliability.hooks",
)


def call_hook(hook: list[Any] | None) -> None:
    """Call ``reliability.hooks.<name>(**arguments)`` in the child, before the command."""
    if hook is not None:
        name, arguments = hook
        getattr(importlib.import_module("reliability.hooks"), name)(**arguments)


def child(request: dict[str, Any]) -> int:
    for descriptor, name in ((1, "out"), (2, "err")):
        target = os.open(request[name], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(target, descriptor)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    import torch
    from reliability.batch import run_batch

    torch.set_num_threads(1)
    from chronorun.cli.main import run_command_line

    for hook in request["hooks"]:
        call_hook(hook)
    if request["batch"] is not None:
        return run_batch(**request["batch"])
    return run_command_line(request["arguments"])


def run_child(request: dict[str, Any]) -> None:
    code = 70
    try:
        code = child(request)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int, limit_s: float, kill_after_s: float | None) -> dict[str, Any]:
    """Wait for a child; kill it where asked to, or when it takes longer than it may."""
    begun, hung = time.monotonic(), False
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        elapsed = time.monotonic() - begun
        hung = elapsed > limit_s
        if hung or (kill_after_s is not None and elapsed > kill_after_s):
            os.kill(pid, signal.SIGKILL)
            kill_after_s = None
            _, status, usage = os.wait4(pid, 0)
            break
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begun
    return {"code": code, "hung": hung, "seconds": seconds, "peak_kib": usage.ru_maxrss}


def is_stopped(pid: int) -> bool:
    """Say whether a child got SIGSTOP."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return text.rpartition(")")[2].split()[0] == "T"


def wait_for_rank(pid: int, ends: list[str], limit_s: float) -> dict[str, Any]:
    """Wait for a child that is one process of a run; the last of them is killed if it is stopped.

    ``ends`` names a file for each process, its own first, that is there once it has ended.
    """
    begun = time.monotonic()
    while not (found := os.wait4(pid, os.WNOHANG))[0]:
        is_last = all(Path(end).exists() for end in ends[1:])
        if time.monotonic() - begun > limit_s or (is_last and is_stopped(pid)):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    at = time.time()
    Path(ends[0]).touch()
    return {"code": os.waitstatus_to_exitcode(found[1]), "at": at}


def warm_up() -> None:
    """Import what a command needs, what comes with the first optimizer and plugins of Hydra too."""
    for name in WARM:
        importlib.import_module(name)
    import torch
    from hydra.core.plugins import Plugins

    torch.optim.AdamW([torch.zeros(1)], fused=True)
    Plugins.instance()
    # A child has no use for looking through these again and again.
    gc.freeze()


def main() -> None:
    warm_up()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    print("{}", file=replies)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run_child(request)
        if "ends" in request:
            reply = wait_for_rank(pid, request["ends"], request["limit_s"])
        else:
            reply = wait(pid, request["limit_s"], request["kill_after_s"])
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
