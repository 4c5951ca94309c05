"""The GPU's rows, on a device that is none: the same path, another clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from performance.gpu import Cuda, compare
from performance.models import preset_config
from performance.timing import Step

NANO = ["model=nano", "lifecycle=dry_run", "data=synthetic"]


class Processor:
    """The CPU in the place of a GPU."""

    kind = "cpu"

    def __init__(self, name: str, waiting: bool) -> None:
        self.name, self.waiting = name, waiting
        self.steps = 0

    def seconds(self, step: Step, times: int) -> float:
        began = time.perf_counter()
        step()
        self.steps += times
        return time.perf_counter() - began

    def waits(self, step: Step) -> bool:
        step()
        return self.waiting


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, cache_dir: Path) -> None:
    monkeypatch.setenv("CHRONORUN_CACHE", str(cache_dir))


def test_the_path_of_a_gpu_gives_its_three_rows() -> None:
    device = Processor("one H200", waiting=False)
    rate, mfu, syncs = compare("nano", preset_config("nano"), NANO, device, rounds=1)
    assert rate.baseline_spread == 1.0
    assert rate.value is not None
    assert rate.value > 0.0
    assert rate.must == 0.75
    assert rate.at_least
    tokens_per_second = float(rate.note.split(" tokens/s, ")[0].replace(",", ""))
    assert mfu.value is not None
    # 6 FLOPs for each weight that a token meets, at the least.
    assert mfu.value > 6.0 * tokens_per_second * 10_000 / 989e12
    assert (syncs.value, syncs.verdict()) == (0.0, "holds")
    assert device.steps == 2 * 2 * 10


def test_a_step_that_waits_misses_and_an_unknown_device_has_no_peak() -> None:
    device = Processor("another", waiting=True)
    _, mfu, syncs = compare("nano", preset_config("nano"), NANO, device, rounds=1)
    assert mfu.verdict() == "not measured: peak of another unknown"
    assert syncs.verdict() == "MISSES: 1 where the must is 0"


def test_a_wait_for_the_device_is_told_from_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "one")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def wait() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    def fail() -> None:
        raise RuntimeError("out of memory")

    device = Cuda()
    assert device.waits(wait)
    assert not device.waits(lambda: None)
    with pytest.raises(RuntimeError, match="out of memory"):
        device.waits(fail)
    assert modes == ["error", "default"] * 3
