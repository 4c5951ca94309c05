"""Quote commands that can be pasted into a shell: for Hydra's grammar, then for the shell."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from chronorun.core.text import harmless

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]*/[A-Za-z0-9_./+-]+(?: [A-Za-z0-9_./+-]+)*")
"""Paths that Hydra reads without quotes, single blanks included."""


def shell_word(text: str) -> str:
    """Return a word that a shell reads as ``text``.

    Control characters and bytes that are not UTF-8 cannot be shown; they are escaped as in bash,
    zsh and ksh: ``$'a\\x1b'``.
    """
    if harmless(text) != text:
        return "$'" + "".join(map(_escaped, text)) + "'"
    if "'" in text and not set(text) & set('"$`\\!'):
        return f'"{text}"'
    return shlex.quote(text)


def _escaped(char: str) -> str:
    if char in "'\\":
        return f"\\{char}"
    if harmless(char) == char:
        return char
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


def override_word(key: str, path: str | os.PathLike[str]) -> str:
    """Return ``key=path`` as one word of a shell, which Hydra reads as that path."""
    from chronorun.config.overrides import quoted

    text = _as_path(path)
    return f"{key}={shell_word(text if _PLAIN.fullmatch(text) else quoted(text))}"


def path_word(path: str | os.PathLike[str]) -> str:
    """Return a path as one word of a shell that no program takes for a flag."""
    text = os.fspath(path)
    return shell_word(_as_path(text) if text.startswith("-") else text)


def _as_path(path: str | os.PathLike[str]) -> str:
    """Return a path that is not mistaken for a number, a flag or ``auto``."""
    text = os.fspath(path)
    return text if "/" in text else f"./{text}"


def resume_command(run_dir: Path | str) -> str:
    """Return the command that continues a run."""
    return f"chronorun train {override_word('resume', run_dir)}"


def command_line(words: Iterable[str]) -> str:
    """Return a command as it would be typed."""
    return " ".join(map(shell_word, words))
