"""The completion scripts in real shells, with a real <Tab>."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

SETUP = {
    "bash": (["bash", "--norc", "-i"], ["PS1='> '", 'eval "$(chronorun completion bash)"']),
    "zsh": (
        ["zsh", "-f", "-i"],
        [
            "PROMPT='> '",
            "autoload -Uz compinit && compinit -u -D",
            'eval "$(chronorun completion zsh)"',
        ],
    ),
    "fish": (["fish", "--private", "--no-config", "-i"], ["chronorun completion fish | source"]),
}


class Terminal:
    """A shell on a pseudo-terminal, typed into."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(arguments[0], arguments, environment)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read_until(self, wanted: str, timeout_s: float = 20.0) -> str:
        """Return what was printed, up to the moment ``wanted`` was among it."""
        seen, end = "", time.monotonic() + timeout_s
        while wanted not in seen and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                seen += os.read(self.fd, 65536).decode(errors="replace")
        return seen

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def start(shell: str, folder: Path) -> Terminal:
    program = folder / "bin" / "chronorun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m chronorun "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    root = Path(__file__).parents[3]
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "HOME": str(folder),
        "TERM": "xterm",
    }
    arguments, setup = SETUP[shell]
    terminal = Terminal(arguments, environment)
    for line in [
        *setup,
        "cd",
        "echo READY-$((40 + 2))" if shell != "fish" else "echo READY-(math 42)",
    ]:
        terminal.type(line + "\n")
    assert "READY-42" in terminal.read_until("READY-42")
    return terminal


@pytest.mark.parametrize(
    "shell", ["bash", *(pytest.param(name, marks=pytest.mark.whole) for name in ("zsh", "fish"))]
)
def test_tab_completes_in_a_real_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "notes.txt").touch()
    terminal = start(shell, tmp_path)
    try:
        for typed, rest in (
            ("chronorun tra", "in"),
            ("chronorun train router=un", "balanced"),
            ("chronorun train model=nano router=topk,un", "balanced"),
            ("chronorun train optimizer.sch", "edule="),
            ("chronorun train lifecycle/spawn=e", "ager"),
            ("chronorun train tracking.wandb.mode=off", "line"),
            ("chronorun inspect my", "\\ run/"),
            ("chronorun inspect my\\ r", "un/"),
            ("chronorun inspect 'my", " run/"),
            ("chronorun train data.files=my\\ run/no", "tes.txt"),
        ):
            terminal.type(typed)
            terminal.read_until(typed[-3:], timeout_s=2.0)
            terminal.type("\t")
            assert rest in terminal.read_until(rest), typed
            terminal.type("\x15")
            time.sleep(0.3)
    finally:
        terminal.close()
