"""Command lines in forked children of warm servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Done:
    """How a command ended: ``code`` is negative for a signal, ``peak_kib`` its memory."""

    code: int
    hung: bool
    seconds: float
    peak_kib: int
    out: str
    err: str

    @property
    def told(self) -> str:
        return self.out + self.err


class Server:
    """A warm process that forks a child for each request."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "warm.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._is_warm = False

    def ask(self, request: dict[str, Any]) -> None:
        if not self._is_warm:
            self.reply()
            self._is_warm = True
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)

    def reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the warm server has ended"
        return dict(json.loads(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


class Commands:
    """Runs command lines of ``chronorun``, each in a child of its own.

    Processes of one run come from servers of their own: like those of ``torchrun``, and unlike
    children of one, they differ in their hash seeds and in all that follows from these.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
            "HF_HUB_OFFLINE": "1",
            "CHRONORUN_CACHE": str(cache),
        }
        # A seed that was set would be that of all.
        self.environment.pop("PYTHONHASHSEED", None)
        self._servers = [Server(self.environment)]

    def __call__(
        self,
        cwd: Path,
        *arguments: str,
        hooks: list[tuple[str, dict[str, Any]]] | None = None,
        env: dict[str, str] | None = None,
        kill_after_s: float | None = None,
        limit_s: float = 120.0,
        batch: dict[str, Any] | None = None,
        printed: Path | None = None,
    ) -> Done:
        """Run one command in ``cwd`` with hooks of ``reliability.hooks`` installed.

        What it prints goes to files of the folder ``printed`` (or ``cwd``).
        """
        cwd.mkdir(parents=True, exist_ok=True)
        out, err = ((printed or cwd) / name for name in ("stdout.txt", "stderr.txt"))
        request = {
            "arguments": arguments,
            "cwd": str(cwd),
            "env": env or {},
            "hooks": hooks or [],
            "batch": batch,
            "out": str(out),
            "err": str(err),
            "limit_s": limit_s,
            "kill_after_s": kill_after_s,
        }
        self._servers[0].ask(request)
        reply = self._servers[0].reply()
        texts = (path.read_text(encoding="utf-8", errors="replace") for path in (out, err))
        return Done(**reply, **dict(zip(("out", "err"), texts, strict=True)))

    def together(
        self,
        cwd: Path,
        files: Path,
        arguments: Sequence[str],
        environments: Sequence[dict[str, str]],
        hooks: Sequence[Sequence[tuple[str, dict[str, Any]]]],
        limit_s: float,
    ) -> list[dict[str, Any]]:
        """Run one command in several processes; returns how each ended, by code and time."""
        ends = [str(files / f"{rank}.ended") for rank in range(len(environments))]
        while len(self._servers) < len(environments):
            self._servers.append(Server(self.environment))
        for rank, (environment, faults) in enumerate(zip(environments, hooks, strict=True)):
            self._servers[rank].ask(
                {
                    "arguments": arguments,
                    "cwd": str(cwd),
                    "env": environment,
                    "hooks": faults,
                    "batch": None,
                    "out": str(files / f"{rank}.out"),
                    "err": str(files / f"{rank}.err"),
                    "limit_s": limit_s,
                    "ends": [ends[rank], *ends[:rank], *ends[rank + 1 :]],
                }
            )
        return [server.reply() for server in self._servers[: len(ends)]]

    def close(self) -> None:
        for server in self._servers:
            server.close()
