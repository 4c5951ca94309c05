"""Read one YAML file of a configuration; errors name the file and the line.

Hydra reads config files through this, too (``source.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.errors import UserError

if TYPE_CHECKING:
    from yaml import Node

_HEADER = re.compile(r"#\s*@(\S+)\s+(\S+)\s*")


def read_yaml(path: Path) -> tuple[dict[str, str | None], Any]:
    """Return a file's header (``# @package _global_``) and its content, an OmegaConf mapping.

    Raises UserError naming file and line if the file is not YAML or not a configuration.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    text = _text(path)
    header = _header(path, text)
    try:
        node = _node(path, text)
        found = OmegaConf.load(_stream(text)) if node is not None else OmegaConf.create()
    except YAMLError as error:
        raise _wrong_yaml(path, text, error) from error
    except OmegaConfBaseException as error:
        # Before ValueError, which some of these are, too.
        first = str(error).strip().partition("\n")[0]
        raise wrong(path, _line_of_bad_value(text), first, "a value of YAML") from error
    except UserError:
        raise
    except ValueError as error:
        # A tag such as !!float before something else.
        raise wrong(path, 1, str(error), "YAML") from error
    return header, found


def wrong(path: Path, line: int, what: str, rule: str) -> UserError:
    """Return the error for a line of a file; lines count from 1."""
    said = " ".join(what.split()).rstrip(".")
    return UserError(
        f"configuration: {path} line {line}: {said}, expected {rule}; correct the file"
    )


def _stream(text: str) -> Any:
    import io

    return io.StringIO(text)


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        # Some editors put a byte order mark first.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise wrong(path, line, f"byte 0x{data[error.start]:02x}", "UTF-8 text") from None


def _header(path: Path, text: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {"package": None}
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if bare and not re.match(r"#\s*@", bare):
            break
        if bare:
            match = _HEADER.fullmatch(bare)
            if match is None:
                raise wrong(path, number, bare, "# @package NAME")
            found[match[1]] = match[2]
    return found


def _node(path: Path, text: str) -> Node | None:
    """Return the file's top node, a mapping; None if the file holds only comments."""
    import yaml

    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        return None
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise wrong(path, node.start_mark.line + 1, kind, "keys and values, such as seed: 1")
    _refuse_circles(path, node, [])
    for key, value in node.value:
        if key.value == "defaults":
            _check_defaults(path, value)
    return node


def _refuse_circles(path: Path, node: Node, above: list[Node]) -> None:
    if any(node is one for one in above):
        line = node.start_mark.line + 1
        raise wrong(path, line, "an anchor that contains itself", "an end to it")
    for child in _children(node):
        _refuse_circles(path, child, [*above, node])


def _children(node: Node) -> list[Node]:
    if isinstance(node.value, str):
        return []
    return [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]


def _check_defaults(path: Path, node: Node) -> None:
    rule = "a list of config files and groups, such as [train, _self_]"
    line = node.start_mark.line + 1
    if not node.tag.endswith(":seq"):
        raise wrong(path, line, "defaults is no list", rule)
    for item in node.value:
        single = item.tag.endswith(":map") and len(item.value) == 1
        good = _is_text(item) or (single and _is_option(item.value[0]))
        if not good:
            raise wrong(path, item.start_mark.line + 1, "an entry of defaults is none", rule)


def _is_option(pair: tuple[Node, Node]) -> bool:
    key, value = pair
    several = value.tag.endswith(":seq") and all(map(_is_text, value.value))
    return _is_text(key) and (_is_text(value) or value.tag.endswith(":null") or several)


def _is_text(node: Node) -> bool:
    return bool(node.tag.endswith(":str"))


def _wrong_yaml(path: Path, text: str, error: Exception) -> UserError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        what = getattr(error, "problem", None) or getattr(error, "context", None) or "no YAML"
        return wrong(path, mark.line + 1, str(what), "YAML")
    # A character that is not allowed in YAML.
    place = getattr(error, "position", 0)
    return wrong(path, text.count("\n", 0, place) + 1, f"character {text[place]!r}", "YAML")


def _line_of_bad_value(text: str) -> int:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for node in _scalars(yaml.compose(text, Loader=yaml.SafeLoader)):
        try:
            OmegaConf.create({"value": node.value})
        except OmegaConfBaseException:
            return int(node.start_mark.line) + 1
    return 1


def _scalars(node: Node) -> Iterator[Node]:
    if isinstance(node.value, str):
        yield node
    for child in _children(node):
        yield from _scalars(child)


def line_naming(path: Path, name: str) -> int | None:
    """Return the line of a file's defaults list that holds a name; None if none does."""
    import yaml

    try:
        top = yaml.compose(_text(path), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UserError):
        return None
    if top is None or isinstance(top.value, str):
        return None
    for key, value in top.value:
        if key.value == "defaults":
            for node in _scalars(value):
                if node.value.strip("/") == name:
                    return int(node.start_mark.line) + 1
    return None
