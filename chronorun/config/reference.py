"""Fields with the defaults of ``chronorun train``, for help and documentation."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from chronorun.config.compose import compose_run
from chronorun.config.describe import FieldInfo, all_fields, show_value
from chronorun.config.run import RunConfig


def group_meaning(group: str) -> str:
    """Return the first line of the docstring of a group's dataclass (empty for other groups)."""
    hint = get_type_hints(RunConfig).get(group)
    return (getattr(hint, "__doc__", None) or "").strip().partition("\n")[0]


def default_run_fields() -> list[FieldInfo]:
    """Return every field with its value in a ``chronorun train`` without overrides."""
    config, _ = compose_run([])
    return [dataclasses.replace(info, default=_value_at(config, info)) for info in all_fields()]


def _value_at(config: RunConfig, info: FieldInfo) -> str:
    if info.key == "run_id":
        return "<fresh>"
    node: Any = config
    for name in info.key.split("."):
        node = getattr(node, name)
    return show_value(node)


def markdown_table(group: str) -> str:
    """Return the fields of one group (empty: the root) as a Markdown table, for the README."""
    rows = ["| field | meaning | unit | range | default |", "|---|---|---|---|---|"]
    for info in default_run_fields():
        if info.group == group:
            cells = (f"`{info.key}`", info.help, info.unit, info.rule, f"`{info.default}`")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)
