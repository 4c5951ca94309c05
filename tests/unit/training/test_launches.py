"""What several processes must have in common before they train: equal parts, equal threads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from chronorun.config.run import RunConfig
from chronorun.config.training import TrainingConfig
from chronorun.core.launch import Place
from chronorun.core.processes import Processes
from chronorun.errors import UserError
from chronorun.training import runner
from chronorun.training.stepping import check_batch


def of_batch(size: int, parts: int = 1) -> RunConfig:
    return RunConfig(training=TrainingConfig(batch_size=size, grad_accum_steps=parts))


def told(config: RunConfig, world: int, *, resumed: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        check_batch(config, world, resumed=resumed)
    return str(caught.value)


def test_a_batch_that_the_processes_cannot_share_is_refused() -> None:
    assert told(of_batch(6), 4) == (
        "processes: training.batch_size=6, expected a multiple of 4 processes x "
        "training.grad_accum_steps=1; change one of them"
    )


@pytest.mark.parametrize(("size", "parts"), [(6, 1), (12, 3), (1, 1), (16, 1)])
def test_a_run_is_told_with_how_many_processes_it_can_be_resumed(size: int, parts: int) -> None:
    config = of_batch(size, parts)
    message = told(config, 5, resumed=True)
    advice = message.partition("; resume it with ")[2]
    numbers = [int(number) for number in re.findall(r"\d+", advice)]
    assert numbers == [n for n in range(1, size + 1) if size % (n * parts) == 0]
    for number in numbers:
        check_batch(config, number, resumed=True)


def test_a_resume_with_too_many_processes_keeps_its_batch() -> None:
    assert told(of_batch(6), 4, resumed=True) == (
        "processes: training.batch_size=6, expected a multiple of 4 processes x "
        "training.grad_accum_steps=1; resume it with 1, 2, 3 or 6 of them"
    )


@dataclass(frozen=True)
class Beside(Processes):
    """One of two processes; the other says ``theirs``."""

    theirs: int = 0

    def largest(self, number: int) -> int:
        return max(number, self.theirs)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_processes_compute_with_the_threads_of_the_one_that_has_fewest() -> None:
    # A smallest number is a largest one of the other sign.
    place = Place(1, 2, 1, 2)
    config = RunConfig(training=TrainingConfig(threads=3))
    runner._set_threads(config, None, Beside(place, theirs=-2))
    assert torch.get_num_threads() == 2
    runner._set_threads(config, None, Beside(place, theirs=-8))
    assert torch.get_num_threads() == 3
