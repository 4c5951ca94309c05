"""Records to plain data and back, with tensors and arrays."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from chronorun.core.state import from_plain, pack, to_plain, unpack


class Colour(StrEnum):
    red = "red"


class Odd:
    """Saved as something of its own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state_dict(self) -> Any:
        return [self.number, Colour.red]

    @classmethod
    def from_state_dict(cls, plain: Any) -> Odd:
        return cls(plain[0])


@dataclass
class Record:
    colour: Colour
    means: dict[int, tuple[int, float]]
    names: tuple[str, ...] = ()
    rows: dict[str, Tensor] = field(default_factory=dict)
    dist: NDArray[np.float64] | None = None
    odd: Odd | None = None


def test_a_record_comes_back_from_json_and_tensors() -> None:
    dist = np.array([0.1, 1 / 3, 0.0])
    rows = {"a": torch.ones(2)}
    record = Record(Colour.red, {3: (1, 0.1)}, ("x",), rows, dist, Odd(7))
    plain, tensors = pack(to_plain({5: record}))
    assert list(tensors) == ["5.rows.a"]
    assert tensors["5.rows.a"] is rows["a"]
    found = from_plain(dict[int, Record], unpack(json.loads(json.dumps(plain)), tensors))[5]
    assert (found.colour, found.means, found.names) == (Colour.red, {3: (1, 0.1)}, ("x",))
    assert found.rows == rows
    assert found.dist is not None
    assert found.odd is not None
    assert (found.dist.tobytes(), found.odd.number) == (dist.tobytes(), 7)


def test_plain_data_shares_no_container_with_the_record() -> None:
    record = Record(Colour.red, {})
    plain = to_plain(record)
    record.means[1] = (1, 2.0)
    assert plain["means"] == {}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("colour", "blue", "Invalid enum value 'blue' - at `$.colour`"),
        ("means", {"x": [1, 2.0]}, "Expected `int`, got `str`"),
        ("means", {"1": [True, 2.0]}, "Expected `int`, got `bool`"),
        ("means", {"1": [1.5, 2.0]}, "Expected `int`, got `float`"),
        ("names", "x", "Expected `array`, got `str` - at `$.names`"),
        ("rows", {"a": 1}, "Expected `Tensor`, got `int`"),
        ("dist", 3, "argument should be"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: Any, complaint: str) -> None:
    plain = to_plain(Record(Colour.red, {})) | {key: value}
    with pytest.raises((msgspec.ValidationError, TypeError)) as caught:
        from_plain(Record, plain)
    assert complaint in str(caught.value)


def test_what_cannot_be_saved_is_an_error() -> None:
    with pytest.raises(TypeError, match="object cannot be saved as plain data"):
        to_plain({"a": object()})
