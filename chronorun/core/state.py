"""State as plain data: records to dicts and back, and tensors apart from what JSON can hold.

Every stateful part of a run returns one ``state_dict()``. ``to_plain`` makes it of records (a
dataclass becomes a dict of its fields), ``from_plain`` builds the records again and checks every
value on the way. Tensors pass through both. Checkpoints hold JSON and safetensors: ``pack`` lifts
the tensors out and leaves a marker behind, ``unpack`` puts them back.
"""

from __future__ import annotations

import base64
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_origin, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_MARK = "__tensor__"


@overload
def to_plain(value: Mapping[Any, Any]) -> dict[str, Any]: ...
@overload
def to_plain(value: Any) -> Any: ...
def to_plain(value: Any) -> Any:
    """Return nested plain data: records as dicts, enums as values, mapping keys as strings.

    Containers are new, tensors the same. Arrays of float64 become text that reads back bit for bit.
    A class that is no dataclass says what it is saved as with ``state_dict()``, and is read back
    with ``from_state_dict(plain)``. Raises TypeError for anything else.
    """
    return msgspec.to_builtins(
        value, builtin_types=_tensor_types(), str_keys=True, enc_hook=_encode
    )


@overload
def from_plain(kind: type[T], plain: Any) -> T: ...
@overload
def from_plain(kind: Any, plain: Any) -> Any: ...
def from_plain(kind: Any, plain: Any) -> Any:
    """Return what ``to_plain`` was given: a record, or a container of records such as a dict.

    Fields that the record does not have are ignored. Raises msgspec.ValidationError, a ValueError,
    for a value of another type than the annotation's; no type is converted to another.
    """
    return msgspec.convert(plain, kind, str_keys=True, dec_hook=_decode)


def pack(state: Any, prefix: str = "") -> tuple[Any, dict[str, Any]]:
    """Return (plain data, tensors by dotted path); mapping keys must be strings."""
    tensors: dict[str, Any] = {}
    tensor = _tensor_types()

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, tensor):
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


def unpack(plain: Any, tensors: Mapping[str, Any]) -> Any:
    """Join what ``pack`` separated (tuples come back as lists)."""
    if isinstance(plain, Mapping):
        if set(plain) == {_MARK}:
            return tensors[plain[_MARK]]
        return {key: unpack(value, tensors) for key, value in plain.items()}
    if isinstance(plain, list):
        return [unpack(value, tensors) for value in plain]
    return plain


def tensor_names(plain: Any) -> Iterator[Any]:
    """Yield each path that plain data names a tensor by, at whatever depth; no tensor is needed."""
    waiting = [plain]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if set(node) == {_MARK}:
                yield node[_MARK]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _tensor_types() -> tuple[type, ...]:
    # Replay reads state without torch; where torch was not imported, nothing is a tensor.
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.Tensor,)


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return base64.b64encode(zlib.compress(value.astype("<f8").tobytes(), 1)).decode()
    if hasattr(value, "state_dict"):
        return value.state_dict()
    raise TypeError(f"{type(value).__name__} cannot be saved as plain data")


def _decode(kind: Any, value: Any) -> Any:
    origin = get_origin(kind) or kind
    if origin is np.ndarray:
        return _array(value)
    return origin.from_state_dict(value) if hasattr(origin, "from_state_dict") else value


def _array(text: str) -> NDArray[np.float64]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f8")
