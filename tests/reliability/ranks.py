"""Runs of two processes, with ``torchrun`` or without its agent's help."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.commands import TESTS

LIMIT_S = 600.0
"""Of the machine's patience, not of the product's: a busy one takes minutes to import torch."""
Faults = Mapping[int, Sequence[tuple[str, dict[str, Any]]]]


@dataclass(frozen=True)
class Ended:
    """How one process ended: ``code`` < 0 for a signal, ``after_s`` counts from the fault."""

    code: int
    err: str
    after_s: float


class Pair:
    """Starts ``chronorun train`` as two processes and waits for both."""

    def __init__(self, cache: Path) -> None:
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
            "HF_HUB_OFFLINE": "1",
            "CHRONORUN_CACHE": str(cache),
        }

    def __call__(
        self, cwd: Path, *arguments: str, faults: Faults | None = None, agent: bool = True
    ) -> list[Ended]:
        """Run both, rank 0 first in what is returned; without the agent they are on their own."""
        cwd.mkdir(parents=True, exist_ok=True)
        files = cwd / f"ranks-{time.time_ns()}"
        files.mkdir()
        environment = self.environment | {
            "RANK_FILES": str(files),
            "RANK_FAULTS": json.dumps(faults or {}),
        }
        command = ["-m", "reliability.rank_entry", *arguments]
        if agent:
            start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            began = [self._start([*start, *command], cwd, environment, files / "agent")]
        else:
            port = _free_port()
            began = [
                self._start(command, cwd, environment | _launch(rank, port), files / f"{rank}.raw")
                for rank in range(2)
            ]
        codes = self._wait(began)
        ends = [_end(files, rank) for rank in range(2)]
        struck = _number(files / "struck")
        return [
            Ended(
                codes[rank] if end is None and not agent else -1 if end is None else end["code"],
                _text(files / f"{rank}.err") + (_text(files / "agent") if end is None else ""),
                end["at"] - struck if end is not None and struck is not None else float("nan"),
            )
            for rank, end in enumerate(ends)
        ]

    def _start(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], told: Path
    ) -> subprocess.Popen[bytes]:
        with told.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd,
                env=dict(environment),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self, began: Sequence[subprocess.Popen[bytes]]) -> list[int]:
        deadline = time.monotonic() + LIMIT_S
        try:
            while any(one.poll() is None for one in began):
                if all(one.poll() is not None or _is_stopped(one.pid) for one in began):
                    break
                assert time.monotonic() < deadline, "a process of the pair hangs"
                time.sleep(0.05)
        finally:
            for one in began:
                if one.poll() is None:
                    # Those that torchrun started are in sessions of their own; it ends them.
                    one.send_signal(signal.SIGKILL if _is_stopped(one.pid) else signal.SIGTERM)
        return [one.wait(timeout=60) for one in began]


def _launch(rank: int, port: int) -> dict[str, str]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    told = {name: str(value) for name, value in names.items()}
    return told | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _end(files: Path, rank: int) -> dict[str, Any] | None:
    path = files / f"{rank}.end"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _number(path: Path) -> float | None:
    return float(path.read_text(encoding="utf-8")) if path.exists() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
