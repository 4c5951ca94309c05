"""Describe the fields of the configuration: meaning, unit, range, default."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from chronorun.config.fields import describe_range
from chronorun.config.run import RunConfig

_TYPE_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class FieldInfo:
    """One configuration field, by its full key."""

    key: str
    help: str
    unit: str
    range: str
    default: str
    choices: tuple[str, ...]
    kind: str
    optional: bool
    is_mapping: bool
    free_on_resume: bool

    @property
    def group(self) -> str:
        """The config group that holds the field; empty for the root."""
        return self.key.partition(".")[0] if "." in self.key else ""

    @property
    def expected(self) -> str:
        """What a value must be, for error messages."""
        kind = f"one of {', '.join(self.choices)}" if self.choices else self.kind
        words = f"{kind} {self.range}".rstrip()
        return f"{words} or null" if self.optional else words

    @property
    def rule(self) -> str:
        """The range or the choices, for tables."""
        return self.range or ", ".join(self.choices)


def show_value(value: Any) -> str:
    """Return a value as it is typed in an override."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        return inner[0], len(inner) < len(get_args(hint))
    return hint, False


def _kind(hint: Any) -> str:
    if (get_origin(hint) or hint) is list:
        return "a list such as [a,b]"
    if (get_origin(hint) or hint) is dict:
        return "a mapping such as {a:1}"
    return _TYPE_WORDS.get(hint, "a value")


def _choices(hint: Any) -> tuple[str, ...]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(member.name for member in hint)
    return ("true", "false") if hint is bool else ()


def fields_of(cls: type, prefix: str = "", *, free: bool = False) -> Iterator[FieldInfo]:
    """Yield the fields of a configuration dataclass, nested ones with dotted keys."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, optional = _without_none(hints[field.name])
        key = prefix + field.name
        # Of a whole group, the mark counts for each of its fields.
        free_on_resume = free or bool(field.metadata.get("free_on_resume"))
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from fields_of(hint, f"{key}.", free=free_on_resume)
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        yield FieldInfo(
            key=key,
            help=field.metadata.get("help", ""),
            unit=field.metadata.get("unit", ""),
            range=describe_range(field.metadata) if field.metadata else "",
            default=show_value(default),
            choices=_choices(hint),
            kind=_kind(hint),
            optional=optional,
            is_mapping=(get_origin(hint) or hint) is dict,
            free_on_resume=free_on_resume,
        )


def all_fields(schema: type[RunConfig] = RunConfig) -> list[FieldInfo]:
    """Return every field of a root, with the defaults of the dataclasses."""
    return list(fields_of(schema))


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested plain configuration data by dotted key."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
