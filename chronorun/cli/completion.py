"""Shell completion of commands, flags, groups, options and keys, after ``=`` too.

The scripts ask ``chronorun _complete WORDS...`` (the last word is the one at the cursor), which
answers in whole words (``router=topk``). bash splits words at ``=`` and ``:``, so its script reads
the line itself, undoes its quoting, cuts off what bash keeps, and quotes the rest likewise.
zsh and fish quote words themselves; their scripts only undo the quoting of what is typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.cli.completion_scripts import SHELLS

if TYPE_CHECKING:
    from chronorun.config.describe import FieldInfo

_HYDRAS = (
    "--multirun",
    "--cfg",
    "--resolve",
    "--package",
    "--info",
    "--config-dir",
    "--config-name",
    "--hydra-help",
)
"""Flags of Hydra that ``train`` and ``bench`` take; Typer passes them through unseen."""
_HYDRA_COMMANDS = {"train": (*_HYDRAS, "--experimental-rerun"), "bench": _HYDRAS}
FLAG_VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--checkpoint": ("last", "best"),
    "--action": ("MERGE", "PRUNE", "REVIVE", "ROLLBACK", "SPAWN", "SPLIT"),
}
FOLDER_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")


def print_completions(words: Sequence[str]) -> int:
    """Print the completions of the last word, one a line; print nothing when anything fails."""
    try:
        for candidate in complete(words):
            print(candidate)
    except Exception:
        # An error message would land in the middle of the line that is being typed.
        return 1
    return 0


def complete(words: Sequence[str]) -> list[str]:
    """Return the completions of the last word, given the words after ``chronorun``."""
    before, current = list(words[:-1]), words[-1] if words else ""
    while before and before[0] == "--debug":
        before.pop(0)
    if not before:
        root = _program()
        return _starting((*root.commands, *_flags(root)), current)
    command, previous = before[0], before[-1]
    if previous in FLAG_VALUES:
        found = _starting(FLAG_VALUES[previous], current)
        if found or previous not in ("--info", "-i"):
            return found or _paths(current)
    if previous in FOLDER_FLAGS:
        return _paths(current, folders_only=True)
    if current.startswith("-"):
        found = _program().commands.get(command)
        own = _HYDRA_COMMANDS.get(command, ())
        return [] if found is None else _starting((*_flags(found), *own), current)
    if command in ("train", "bench"):
        return _override(current, bench=command == "bench")
    if command in ("sample", "replay") and len(before) == 1:
        return _paths(current, folders_only=True)
    if command == "replay":
        return _override(current)
    if command == "inspect":
        return _paths(current)
    return _starting(SHELLS, current) if command == "completion" and len(before) == 1 else []


def _program() -> Any:
    """Return the command line as Typer builds it: a group with ``commands`` and ``params``."""
    # Imported for commands and flags only: keys and values come at once.
    from typer.main import get_command

    from chronorun.cli.app import app

    return get_command(app)


def _flags(command: Any) -> list[str]:
    found = [text for option in command.params for text in option.opts if text.startswith("--")]
    return [*found, "--help"]


def _starting(candidates: Iterable[str], current: str) -> list[str]:
    return sorted({candidate for candidate in candidates if candidate.startswith(current)})


def _override(current: str, *, bench: bool = False) -> list[str]:
    bare = current.lstrip("+~")
    sigil = current[: len(current) - len(bare)]
    key, sign, value = bare.partition("=")
    found = _values(key, value, bench) if sign else _keys(key, bench)
    return [sigil + word for word in found]


def _keys(current: str, bench: bool) -> list[str]:
    from chronorun.config.paths import groups

    keys = [info.key for info in _fields(bench)]
    if "." in current:
        return _starting((f"{key}=" for key in keys), current)
    # Fields of a group come once its dot is typed: a first <Tab> shows a screen, not a book.
    tops = {f"{key.partition('.')[0]}." if "." in key else f"{key}=" for key in keys}
    return _starting({*tops, *(f"{name}=" for name in groups(bench=bench))}, current)


def _fields(bench: bool) -> list[FieldInfo]:
    from chronorun.config.bench import BenchRunConfig
    from chronorun.config.describe import all_fields
    from chronorun.config.run import RunConfig

    return all_fields(BenchRunConfig if bench else RunConfig)


def _values(key: str, value: str, bench: bool) -> list[str]:
    from chronorun.config.paths import group_options, groups

    # A list of a sweep, or in brackets, completes its last item.
    cut = max(value.rfind(","), value.rfind("[")) + 1
    done, item = value[:cut], value[cut:]
    if key in ("data.files", "resume", "output_dir", "data.cache_dir"):
        found = [*_starting(("auto",) if key == "resume" else (), item), *_paths(item)]
    elif key in groups(bench=bench):
        found = _starting(group_options(key), item)
    else:
        choices = next((info.choices for info in _fields(bench) if info.key == key), ())
        found = _starting(choices, item)
    return [f"{key}={done}{word}" for word in found]


def _paths(current: str, *, folders_only: bool = False) -> list[str]:
    """Return paths that start so; folders end in a slash, hidden ones come when asked for."""
    head, slash, tail = current.rpartition("/")
    try:
        place = Path(head or slash or ".").expanduser()
    except RuntimeError:
        return []
    found = []
    for path in place.iterdir() if place.is_dir() else ():
        hidden = path.name.startswith(".") and not tail.startswith(".")
        if path.name.startswith(tail) and not hidden and (path.is_dir() or not folders_only):
            found.append(f"{head}{slash}{path.name}{'/' if path.is_dir() else ''}")
    return sorted(found)
