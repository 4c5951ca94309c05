"""How errors reach a person: one line, an exit code, a traceback only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chronorun import __version__
from chronorun.errors import (
    NonFiniteError,
    RanksDisagreeError,
    RunInterrupted,
    StorageError,
    UserError,
)

pytest_plugins = ("cli_in_process",)

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("data: a=1, expected 2; do"), 2, "data: a=1, expected 2; do"),
        (StorageError("disk full"), 3, "disk full"),
        (NonFiniteError("loss is NaN"), 4, "loss is NaN"),
        (RanksDisagreeError("rank 1 differs"), 5, "rank 1 differs"),
        (RunInterrupted("stopped", 2), 130, "stopped"),
        (RunInterrupted("stopped", 15), 143, "stopped"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            PermissionError(13, "Permission denied", "x"),
            3,
            "files: [Errno 13] Permission denied: 'x'; see that the path is there and writable",
        ),
        (
            ZeroDivisionError("by zero"),
            1,
            "unexpected ZeroDivisionError: by zero; run again with --debug",
        ),
        (
            ValueError("[red]two\nlines \x1b[31m"),
            1,
            "unexpected ValueError: [red]two lines \\x1b[31m; run again with --debug",
        ),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    chronorun_here: Run, training: Any, error: BaseException, code: int, line: str
) -> None:
    training.errors = [error]
    done = chronorun_here("train")
    assert (done.code, done.out, done.err) == (code, "", f"chronorun: error: {line}\n")


@pytest.mark.parametrize(
    "arguments", [("--debug", "train"), ("train", "--debug"), ("train", "seed=1", "--debug")]
)
def test_debug_shows_the_traceback_wherever_it_stands(
    chronorun_here: Run, training: Any, arguments: tuple[str, ...]
) -> None:
    training.errors = [ZeroDivisionError("by zero")]
    done = chronorun_here(*arguments)
    assert done.code == 1
    assert "Traceback (most recent call last):" in done.err
    assert "ZeroDivisionError: by zero\n" in done.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("trian",), "command line: No such command 'trian'"),
        (("sample",), "command line: Missing argument"),
        (("sample", "x", "--prompt", "a", "--tokens", "0"), "command line: Invalid value"),
        (("--nope",), "command line: No such option"),
        (("completion", "tcsh"), "completion: shell=tcsh, expected one of bash, fish, zsh"),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    chronorun_here: Run, arguments: tuple[str, ...], line: str
) -> None:
    done = chronorun_here(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"chronorun: error: {line}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--version",), ("train", "--version")])
def test_version_is_ours(chronorun_here: Run, arguments: tuple[str, ...]) -> None:
    done = chronorun_here(*arguments)
    assert (done.code, done.out) == (0, f"chronorun {__version__}\n")


def test_nothing_at_all_shows_the_commands(chronorun_here: Run) -> None:
    assert chronorun_here().out == chronorun_here("--help").out
    assert "train" in chronorun_here().out
