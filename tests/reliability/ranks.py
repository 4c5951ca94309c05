"""Runs of several processes: started by ``torchrun``, or each forked from a warm server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warm.commands import Commands

LIMIT_S = 900.0
"""Of the machine's patience, not of the product's: a busy one takes minutes to import torch."""
Faults = Mapping[int, Sequence[tuple[str, dict[str, Any]]]]


@dataclass(frozen=True)
class Ended:
    """How one process ended: ``code`` < 0 for a signal, ``after_s`` counts from the fault."""

    code: int
    err: str
    after_s: float


class Pair:
    """Runs ``chronorun train`` in two processes (or more: ``world``) and waits for all."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    def __call__(
        self,
        cwd: Path,
        *arguments: str,
        faults: Faults | None = None,
        agent: bool = False,
        world: int = 2,
    ) -> list[Ended]:
        """Return how each ended, rank 0 first; ``agent``: under torchrun, which watches them."""
        cwd.mkdir(parents=True, exist_ok=True)
        files = cwd / f"ranks-{time.time_ns()}"
        files.mkdir()
        run = self._under_torchrun if agent else self._on_their_own
        ends = run(cwd, files, arguments, faults or {}, world)
        struck = files / "struck"
        since = float(struck.read_text(encoding="utf-8")) if struck.exists() else float("nan")
        return [
            Ended(
                end["code"],
                (files / f"{rank}.err").read_text(encoding="utf-8", errors="replace"),
                end["at"] - since,
            )
            for rank, end in enumerate(ends)
        ]

    def _on_their_own(
        self, cwd: Path, files: Path, arguments: Sequence[str], faults: Faults, world: int
    ) -> list[dict[str, Any]]:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        environments = []
        for rank in range(world):
            names = {"RANK": rank, "LOCAL_RANK": rank}
            names |= {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            told = {name: str(value) for name, value in names.items()}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            environments.append(told | {"RANK_FILES": str(files)})
        hooks = [list(faults.get(rank, ())) for rank in range(world)]
        return self.commands.together(cwd, files, arguments, environments, hooks, LIMIT_S)

    def _under_torchrun(
        self, cwd: Path, files: Path, arguments: Sequence[str], faults: Faults, world: int
    ) -> list[dict[str, Any]]:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        environment = self.commands.environment | {
            "RANK_FILES": str(files),
            "RANK_FAULTS": json.dumps({str(rank): list(each) for rank, each in faults.items()}),
        }
        with (files / "agent").open("wb") as told:
            subprocess.run(
                [sys.executable, *start, "-m", "reliability.rank_entry", *arguments],
                cwd=cwd,
                env=environment,
                stdout=told,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
                check=False,
            )
        return [json.loads((files / f"{rank}.end").read_text()) for rank in range(world)]
