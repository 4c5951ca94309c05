"""Tensors out of safetensors files, in an order that is the same in every process."""

from __future__ import annotations

from torch import Tensor


def load_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, sorted by name.

    The library hands them out in the order of a hash table with random keys: another one in each
    process, and at each call. Raises SafetensorError for what is no such file.
    """
    from safetensors.torch import load

    return dict(sorted(load(data).items()))
