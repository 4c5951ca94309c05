"""Turn errors of Hydra and OmegaConf into one line that names the cause and the next step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_type_hints

from chronorun.config.bench import BenchRunConfig
from chronorun.config.describe import all_fields, flatten
from chronorun.config.suggest import SEE_HELP, SEE_HYDRA_HELP, next_step
from chronorun.config.yaml_files import line_naming
from chronorun.errors import UserError


def readable_error(
    error: BaseException, job: Sequence[str], files: Iterable[Path] = ()
) -> UserError:
    """Return an error of composing ``job`` (its overrides) as a UserError of one line.

    ``files`` are the config files whose defaults lists may hold the wrong entry.
    """
    cause = error.__cause__ if error.__cause__ is not None else error
    text = str(cause)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    keys = [line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")]
    if "Could not find '" in text:
        return UserError(_missing_file(lines, _where(text, files)))
    if (
        wrong_node := re.search(r"(\w+) is not a subclass of (\w+)\. value: (.*)", text)
    ) is not None:
        return UserError(_no_node(wrong_node[2], wrong_node[3]))
    if not keys or not keys[0]:
        message = " ".join(lines[:2]).partition(" Check that")[0] or type(cause).__name__
        message = message.partition(" Config search path")[0].rstrip(".:")
        return UserError(f"configuration: {message}{_where(text, files)}; {SEE_HELP}")
    given = [
        text.partition("=")[2] for text in job if text.partition("=")[0].lstrip("+") == keys[0]
    ]
    if keys[0].partition(".")[0] == "hydra":
        return UserError(_wrong_hydra_key(keys[0]))
    return UserError(_wrong_field(keys[0], given[-1] if given else None, text))


_NAMED = re.compile(
    r"Could not (?:load|find) '([^']+)'|Multiple values for ([\w/]+)|Could not override '([^']+)'"
)


def _where(message: str, files: Iterable[Path]) -> str:
    """Return the file and line of the entry that Hydra complains about, in parentheses."""
    found = _NAMED.search(message)
    if found is None:
        return ""
    wanted = next(filter(None, found.groups()))
    for path in files:
        for name in (wanted, wanted.rpartition("/")[2]):
            if (line := line_naming(path, name)) is not None:
                return f" ({path} line {line})"
    return ""


def _missing_file(lines: Sequence[str], where: str) -> str:
    """Explain a missing option of a group, such as ``hydra/launcher``."""
    line = next(line for line in lines if "Could not find '" in line)
    group, _, option = line.partition("Could not find '")[2].rstrip("'").rpartition("/")
    start = next((n for n, text in enumerate(lines) if text.startswith("Available options")), None)
    if start is None:
        return f"configuration: {group or option}{where}, expected a config file; {SEE_HELP}"
    options = [text for text in lines[start + 1 :] if "'" not in text and ":" not in text]
    step = next_step(option, options, SEE_HYDRA_HELP)
    return f"configuration: {group}={option}{where}, expected one of {', '.join(options)}; {step}"


def _no_fields(group: str, value: str) -> str:
    return (
        f"configuration: {group}={value} (in a config file), expected its fields as keys and "
        f"values; an option is chosen as group=option, or in the defaults list"
    )


def _no_node(schema: str, value: str) -> str:
    hints = get_type_hints(BenchRunConfig)
    group = next((name for name, kind in hints.items() if _name(kind) == schema), None)
    if group is None:
        return (
            f"configuration: {value} below hydra (in a config file), expected keys and "
            f"values there; {SEE_HYDRA_HELP}"
        )
    return _no_fields(group, value)


def _name(kind: object) -> str:
    return str(getattr(kind, "__name__", kind))


def _wrong_hydra_key(key: str) -> str:
    from hydra.conf import HydraConf
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(OmegaConf.structured(HydraConf))
    known = [f"hydra.{name}" for name in flatten(node)]
    return (
        f"configuration: {key} does not fit, expected one of Hydra's keys with a value it takes; "
        f"{next_step(key, [name for name in known if name != key], SEE_HYDRA_HELP)}"
    )


def _wrong_field(key: str, given: str | None, message: str) -> str:
    fields = {info.key: info for info in all_fields(BenchRunConfig)}
    if "nterpolation" in message:
        first = message.strip().partition("\n")[0].rstrip(".")
        return f"configuration: {key}: {first}; correct the reference"
    info = fields.get(key)
    if info is None and any(name.startswith(f"{key}.") for name in fields):
        return _no_fields(key, given if given is not None else "null")
    if info is None:
        shown = f"{key}={given}" if given is not None else f"{key} (in a config file)"
        step = next_step(key, fields, SEE_HELP)
        return f"configuration: {shown}, expected a known key; {step}"
    if given is None and f"Key '{key}' not in" in message:
        nested = ": {".join(key.split(".")) + ": ..." + "}" * key.count(".")
        return (
            f"configuration: {key} is written with dots (in a config file), expected {nested}; "
            f"correct the file"
        )
    wrong = given if given is not None else _wrong_value(message)
    where = "" if given is not None else " (in a config file)"
    step = next_step(wrong or "", info.choices, "correct the value")
    shown = key if wrong is None else f"{key}={wrong}"
    return f"configuration: {shown}{where}, expected {info.expected}; {step}"


def _wrong_value(message: str) -> str | None:
    """Return the value that OmegaConf complains about, if its message holds it."""
    said = re.search(
        r"[Vv]alue '(.*?)'(?: of type| could not| is not| for field)", message, re.DOTALL
    )
    if said is None:
        said = re.search(r"[Ii]nvalid value '(.*?)'", message, re.DOTALL)
    if said is None:
        return None
    return "null" if said[1] == "None" else said[1]
