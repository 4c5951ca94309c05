"""Tensors come out of a file in the order of their names, whatever order the library has."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from chronorun.core.tensor_files import load_tensors

NAMES = [f"layer.{number}.{entry}" for number in range(20) for entry in ("step", "exp_avg")]


def test_tensors_are_sorted_by_name_at_every_call() -> None:
    saved = {name: torch.full((2,), float(place)) for place, name in enumerate(NAMES)}
    for _ in range(3):
        loaded = load_tensors(save(saved))
        assert list(loaded) == sorted(NAMES)
        assert all(torch.equal(loaded[name], saved[name]) for name in NAMES)


def test_what_is_no_file_of_tensors_is_refused() -> None:
    with pytest.raises(SafetensorError):
        load_tensors(b"no tensors")
