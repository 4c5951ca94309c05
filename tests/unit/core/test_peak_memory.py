"""The peak of memory inside a block."""

from __future__ import annotations

import pytest

from chronorun.core.peak_memory import PeakMemory


def test_a_block_is_charged_with_its_own_peak_alone() -> None:
    with PeakMemory() as first:
        bytearray(b"x" * (192 << 20))
    if first.peak_bytes is None:
        pytest.skip("this system does not tell")
    with PeakMemory() as second:
        bytearray(b"x" * (1 << 20))
    assert second.peak_bytes is not None
    assert first.peak_bytes - second.peak_bytes > 128 << 20


def test_nothing_is_told_before_the_end() -> None:
    with PeakMemory() as memory:
        assert memory.peak_bytes is None
