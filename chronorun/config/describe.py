"""The fields of the configuration with meaning, unit, range and default, for help and README."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args, get_type_hints

from chronorun.config.fields import describe_range
from chronorun.config.run import RunConfig


@dataclass(frozen=True)
class FieldInfo:
    """One configuration field, by its full key."""

    key: str
    help: str
    unit: str
    range: str
    default: str
    choices: tuple[str, ...]

    @property
    def group(self) -> str:
        """The config group that holds the field; empty for the root."""
        return self.key.partition(".")[0] if "." in self.key else ""


def show_value(value: Any) -> str:
    """Write a value as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choices(hint: Any) -> tuple[str, ...]:
    for candidate in (hint, *get_args(hint)):
        if isinstance(candidate, type) and issubclass(candidate, Enum):
            return tuple(member.name for member in candidate)
        if candidate is bool:
            return ("true", "false")
    return ()


def fields_of(cls: type, prefix: str = "") -> Iterator[FieldInfo]:
    """Yield the fields of a configuration dataclass, nested ones with dotted keys."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            yield from fields_of(hint, f"{key}.")  # type: ignore[arg-type]
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        meta = field.metadata
        yield FieldInfo(
            key=key,
            help=meta.get("help", ""),
            unit=meta.get("unit", ""),
            range=describe_range(meta) if meta else "",
            default=show_value(default),
            choices=_choices(hint),
        )


def all_fields() -> list[FieldInfo]:
    """Return every field of a training run."""
    return list(fields_of(RunConfig))


def markdown_table(group: str) -> str:
    """Return the fields of one group as a Markdown table, for the README."""
    rows = ["| field | meaning | unit | range | default |", "|---|---|---|---|---|"]
    for info in all_fields():
        if info.group == group:
            span = info.range or ", ".join(info.choices)
            rows.append(f"| `{info.key}` | {info.help} | {info.unit} | {span} | `{info.default}` |")
    return "\n".join(rows)
