"""Shell completion of commands, flags, groups, options and keys, after ``=`` too.

The scripts ask ``chronorun _complete -- WORDS...``, which answers in whole words (``router=topk``).
bash splits words at ``=``, so its script joins them again and cuts off what bash has already taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chronorun.errors import UserError

COMMANDS = ("train", "sample", "completion")
HYDRA_FLAGS = (
    "--multirun",
    "--cfg",
    "--resolve",
    "--package",
    "--info",
    "--config-dir",
    "--config-name",
    "--help",
    "--hydra-help",
    "--debug",
)
SAMPLE_FLAGS = (
    "--prompt",
    "--tokens",
    "--temperature",
    "--top-k",
    "--seed",
    "--checkpoint",
    "--json",
    "--help",
)
SHELLS = ("bash", "fish", "zsh")

_BASH = """\
_chronorun_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" cur words IFS=$'\\n'
    IFS=' ' read -ra words <<< "$line"
    cur="${words[${#words[@]}-1]}"
    if [[ "$line" == *" " ]]; then cur=""; words+=(""); fi
    COMPREPLY=($(chronorun _complete -- "${words[@]:1}" 2>/dev/null))
    if [[ "$cur" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*=}"}"}")
    fi
    if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _chronorun_complete chronorun
"""

_ZSH = """\
#compdef chronorun
_chronorun() {
    local -a found
    found=("${(@f)$(chronorun _complete -- "${(@)words[2,$CURRENT]}" 2>/dev/null)}")
    if [[ -z "${found[1]}" ]]; then _files; return; fi
    compadd -Q -S '' -- "${found[@]}"
}
if [[ "$funcstack[1]" = "_chronorun" ]]; then _chronorun "$@"; else compdef _chronorun chronorun; fi
"""

_FISH = """\
function __chronorun_complete
    set -l words (commandline -opc) (commandline -ct)
    chronorun _complete -- $words[2..-1] 2>/dev/null
end
complete -c chronorun -a '(__chronorun_complete)'
"""


def script(shell: str) -> str:
    """Return the completion script of a shell."""
    scripts = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
    if shell not in scripts:
        raise UserError(
            f"completion: shell={shell}, expected one of {', '.join(SHELLS)}; name your shell"
        )
    return scripts[shell]


def complete(words: Sequence[str]) -> list[str]:
    """Return the completions of the last word, given the words after ``chronorun``."""
    words = [word for word in words if word != "--"] if "--" in words[:1] else list(words)
    current = words[-1] if words else ""
    if len(words) <= 1:
        return _starting((*COMMANDS, "--help", "--version", "--debug"), current)
    if words[0] == "train":
        return _train_words(current, words[-2])
    if words[0] == "sample":
        return _starting(SAMPLE_FLAGS, current) if current.startswith("-") else []
    return _starting(SHELLS, current) if words[0] == "completion" else []


def _starting(candidates: Iterable[str], current: str) -> list[str]:
    return sorted(candidate for candidate in candidates if candidate.startswith(current))


def _train_words(current: str, previous: str) -> list[str]:
    if previous in ("--cfg", "-c"):
        return _starting(("job", "hydra", "all"), current)
    if current.startswith("-"):
        return _starting(HYDRA_FLAGS, current)
    from chronorun.config.describe import all_fields
    from chronorun.config.paths import group_options, groups

    key, sign, _ = current.partition("=")
    if not sign:
        keys = {f"{name}=" for name in groups()} | {f"{info.key}=" for info in all_fields()}
        # Fields of a group come once the group is named: a first <Tab> shows a screen, not a book.
        return _starting((k for k in keys if "." in current or "." not in k), current)
    if key in groups():
        values: Iterable[str] = group_options(key)
    else:
        values = next((info.choices for info in all_fields() if info.key == key), ())
    # A sweep list completes its last item.
    done, comma, _ = current.rpartition(",")
    head = done + comma if comma else f"{key}="
    return _starting((head + value for value in values), current)
