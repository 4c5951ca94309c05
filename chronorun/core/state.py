"""Separate nested state into plain JSON data and named tensors, and join them again.

Every stateful part of a run returns one ``state_dict()`` of nested dicts, lists, scalars and
tensors. Checkpoints hold JSON and safetensors, so the tensors are lifted out and leave a marker
behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_MARK = "__tensor__"


def pack(state: Any, prefix: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Return (plain data, tensors by dotted path); mapping keys must be strings."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node
            return {_MARK: path}
        if isinstance(node, Mapping):
            assert all(isinstance(key, str) for key in node), f"non-string key below {path!r}"
            return {
                key: walk(value, f"{path}.{key}" if path else key) for key, value in node.items()
            }
        if isinstance(node, list | tuple):
            return [walk(value, f"{path}.{index}") for index, value in enumerate(node)]
        return node

    return walk(state, prefix), tensors


def unpack(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Join what ``pack`` separated (tuples come back as lists)."""
    if isinstance(plain, Mapping):
        if set(plain) == {_MARK}:
            return tensors[plain[_MARK]]
        return {key: unpack(value, tensors) for key, value in plain.items()}
    if isinstance(plain, list):
        return [unpack(value, tensors) for value in plain]
    return plain
