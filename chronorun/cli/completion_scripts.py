"""Completion scripts for bash, zsh and fish; each asks ``chronorun _complete`` for words."""

from __future__ import annotations

import os
from pathlib import Path

from chronorun.errors import UserError

SHELLS = ("bash", "fish", "zsh")

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
