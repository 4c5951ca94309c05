"""A bench's report as Markdown, in which no name or reason can become markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from chronorun.bench.report.document import Document
from chronorun.core.words import shown

_TEMPLATES = Path(__file__).parent / "templates"
_MARKUP = re.compile(r"[\\`*\[\]<>|&~@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.")
"""What Markdown may read as markup; an underscore inside a word is none."""
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_OPENS_BLOCK = re.compile(r"^(\d+)([.)])|^([-+=#])")


def to_markdown(document: Document) -> str:
    """Return the report as Markdown; the last line ends in a newline."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        # Every value is escaped for Markdown, once: the HTML escape leaves Markup alone.
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else plain(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "opened": opened, "fenced": _fenced}
    return environment.get_template("report.md").render(document=document)


def plain(text: str, longest: int = 500) -> Markup:
    """Return a text on one line that Markdown shows as it is."""
    return Markup(_MARKUP.sub(_escape, shown(text, longest)))


def opened(text: str, longest: int = 500) -> Markup:
    """Return a text that opens a line, and there no list or heading."""
    return Markup(_OPENS_BLOCK.sub(_escape_opening, str(plain(text, longest))))


def _fenced(lines: Sequence[str]) -> Markup:
    text = "\n".join(shown(line, 4000) for line in lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}\n{text}\n{fence}")


def _escape(found: re.Match[str]) -> str:
    return _ENTITIES.get(found[0], f"\\{found[0]}")


def _escape_opening(found: re.Match[str]) -> str:
    return f"{found[1]}\\{found[2]}" if found[1] else f"\\{found[3]}"
