"""Command lines in forked children of one warm server."""

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


class Commands:
    """Runs command lines of ``chronorun``, each in a child of its own."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
            "HF_HUB_OFFLINE": "1",
            "CHRONORUN_CACHE": str(cache),
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "reliability.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server of the reliability tests has ended"
        return dict(json.loads(line))

    def __call__(
        self,
        cwd: Path,
        *arguments: str,
        hooks: list[tuple[str, dict[str, Any]]] | None = None,
        env: dict[str, str] | None = None,
        kill_after_s: float | None = None,
        limit_s: float = 120.0,
        batch: dict[str, Any] | None = None,
    ) -> Done:
        """Run one command in ``cwd`` with hooks of ``reliability.hooks`` installed."""
        cwd.mkdir(parents=True, exist_ok=True)
        out, err = cwd / "stdout.txt", cwd / "stderr.txt"
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
        assert self._server.stdin is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        reply = self._reply()
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
        requests = [
            {
                "arguments": arguments,
                "cwd": str(cwd),
                "env": environment,
                "hooks": faults,
                "batch": None,
                "out": str(files / f"{rank}.out"),
                "err": str(files / f"{rank}.err"),
                "limit_s": limit_s,
            }
            for rank, (environment, faults) in enumerate(zip(environments, hooks, strict=True))
        ]
        assert self._server.stdin is not None
        print(json.dumps(requests), file=self._server.stdin, flush=True)
        return list(self._reply()["ends"])

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)
