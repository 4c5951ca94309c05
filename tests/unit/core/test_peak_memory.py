"""The peak of memory inside a block."""

from __future__ import annotations

from pathlib import Path

import pytest

from chronorun.core import peak_memory
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


def test_a_system_that_does_not_reset_the_peak_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "missing" / "clear_refs")
    with PeakMemory() as memory:
        pass
    assert memory.peak_bytes is None


@pytest.mark.parametrize("status", [None, "Name:\tx\nVmRSS:\t10 kB\n"])
def test_a_system_without_the_figure_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None
) -> None:
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "clear_refs")
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    if status is not None:
        (tmp_path / "status").write_text(status)
    with PeakMemory() as memory:
        pass
    assert memory.peak_bytes is None


def test_the_figure_is_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "clear_refs")
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("VmPeak:\t 9 kB\nVmHWM:\t    3 kB\nVmRSS:\t 1 kB\n")
    with PeakMemory() as memory:
        pass
    assert memory.peak_bytes == 3072.0
    assert (tmp_path / "clear_refs").read_text() == "5"
