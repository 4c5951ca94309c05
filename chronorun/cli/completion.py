"""Shell completion of commands, flags, groups, options and keys, after ``=`` too.

The scripts ask ``chronorun _complete WORDS...`` (the last word is the one at the cursor), which
answers in whole words (``router=topk``). bash splits words at ``=`` and ``:``, so its script reads
the line itself, undoes its quoting, cuts off what bash keeps, and quotes the rest likewise.
zsh and fish quote words themselves; their scripts only undo the quoting of what is typed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.errors import UserError

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
SHELLS = ("bash", "fish", "zsh")

FLAG_VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--checkpoint": ("last", "best"),
    "--action": ("MERGE", "PRUNE", "REVIVE", "ROLLBACK", "SPAWN", "SPLIT"),
}
FOLDER_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")

_BASH = r"""# bash completion for chronorun: eval "$(chronorun completion bash)"
_chronorun_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" word="" quote="" char="" item="" rest=""
    local -i i=0 begun=0 taken=0
    local -a words=() found=()
    # Words as the shell will read them. Of the last one bash replaces what follows an opened quote,
    # a closed one or a word break: the first $taken characters stay as they were typed.
    for ((i = 0; i < ${#line}; i++)); do
        char="${line:i:1}"
        if [[ "$quote" == "'" || ( "$quote" == '"' && "$char" != "\\" ) ]]; then
            if [[ "$char" == "$quote" ]]; then quote="" taken=${#word}; else word+="$char"; fi
        elif [[ "$char" == "\\" ]]; then
            i+=1 begun=1
            word+="${line:i:1}"
        elif [[ "$char" == [\"\'] ]]; then
            quote="$char" taken=${#word} begun=1
        elif [[ "$char" == [[:space:]] ]]; then
            if ((begun)); then words+=("$word"); fi
            word="" begun=0 taken=0
        else
            word+="$char" begun=1
            if [[ "$char" == [=:] && "$COMP_WORDBREAKS" == *"$char"* ]]; then taken=${#word}; fi
        fi
    done
    words+=("$word")
    COMPREPLY=()
    while IFS= read -r item; do
        rest="${item:taken}"
        case "$quote" in
            "'") if [[ "$rest" == *"'"* ]]; then continue; fi ;;
            '"') rest="${rest//\\/\\\\}" rest="${rest//\"/\\\"}"
                rest="${rest//\$/\\\$}" rest="${rest//\`/\\\`}" ;;
            *)  if [[ "$rest" == "~"* ]]; then
                    printf -v rest "~%q" "${rest:1}"
                elif [[ -n "$rest" ]]; then
                    printf -v rest "%q" "$rest"
                fi
                rest="${rest//\\,/,}"
                # Of an override these are a list, and no pattern.
                if [[ "$item" == *=* ]]; then rest="${rest//\\[/[}" rest="${rest//\\]/]}"; fi ;;
        esac
        COMPREPLY+=("$rest")
    done < <("${words[0]/#\~/$HOME}" _complete "${words[@]:1}" 2>/dev/null)
    if [[ "${COMPREPLY[*]}" == *[=./] ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -F _chronorun_complete chronorun
"""

_ZSH = """\
#compdef chronorun
# zsh completion for chronorun, after compinit: eval "$(chronorun completion zsh)"
_chronorun() {
    local -a found open closed
    found=("${(@f)$("${words[1]/#\\~/$HOME}" _complete \\
        "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    open=(${(M)found:#*[=./]})
    closed=(${found:#*[=./]})
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
}
if [[ "$funcstack[1]" = "_chronorun" ]]; then _chronorun "$@"; else compdef _chronorun chronorun; fi
"""

_FISH = """\
# fish completion for chronorun: chronorun completion fish | source
function __chronorun_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    # A quote may still be open.
    set -l current (string unescape -- "$typed"
        or string unescape -- "$typed'"
        or string unescape -- "$typed\\"")
    $words[1] _complete $words[2..-1] "$current" 2>/dev/null
end
complete -c chronorun -f -a '(__chronorun_complete)'
"""


def script(shell: str | None) -> str:
    """Return the completion script of a shell (None: the user's). Raises UserError."""
    name = shell or Path(os.environ.get("SHELL", "")).name
    scripts = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
    if name not in scripts:
        raise UserError(
            f"completion: shell={name}, expected one of {', '.join(SHELLS)}; name your shell"
        )
    return scripts[name]


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
