"""What a launcher says, and digests that tell states apart; the rest needs several processes."""

from __future__ import annotations

import pytest
import torch

from chronorun.core.launch import Place, find_place
from chronorun.core.processes import ALONE, digest_plain, digest_tensors
from chronorun.errors import RanksDisagreeError, UserError

LAUNCH = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_a_launch_gives_each_process_its_place() -> None:
    assert find_place(LAUNCH) == Place(rank=1, world=4, local_rank=1, local_world=2)


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_launch_is_none(missing: str) -> None:
    assert find_place({k: v for k, v in LAUNCH.items() if k != missing}) == Place()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"RANK": "one"}, "RANK=one, expected a number"),
        ({"RANK": "4"}, "RANK=4, expected >= 0 and < WORLD_SIZE=4"),
    ],
)
def test_a_place_that_is_none_is_refused(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        find_place(LAUNCH | wrong)
    assert str(caught.value) == (
        f"processes: {told}; start with torchrun --nproc-per-node N -m chronorun train"
    )


def test_a_launch_is_told_from_a_process_on_its_own() -> None:
    alone = LAUNCH | {"RANK": "0", "WORLD_SIZE": "1"}
    assert find_place(alone).launched
    assert not find_place({}).launched


def test_alone_everything_is_given_back() -> None:
    x = torch.ones(3)
    assert ALONE.sum(x) is x
    assert ALONE.mean(x) is x
    assert ALONE.gather(x)[0] is x
    assert ALONE.largest(7) == 7
    assert ALONE.smallest(7) == 7
    assert ALONE.from_first("here") == "here"
    ALONE.agree("nothing", lambda: pytest.fail("asked for a digest"))
    with ALONE.ending_together(RanksDisagreeError), ALONE.first_goes_ahead():
        ALONE.wait()


def test_an_error_of_ones_own_is_no_lost_process() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), ALONE.ending_together():
        raise RuntimeError("shapes differ")


def test_a_digest_tells_one_bit_a_shape_a_type_and_a_name() -> None:
    x = torch.arange(12, dtype=torch.float32).view(3, 4)
    other = x.clone()
    other.view(torch.int32)[2, 3] += 1
    states = [
        {"x": x},
        {"x": other},
        {"x": x.view(4, 3)},
        {"x": x.view(torch.int32)},
        {"y": x},
        {"x": x.flip(0)},
        {"x": x, "y": torch.tensor(1.0)},
        {"x": x.bool()},
        {},
    ]
    assert len({digest_tensors(state) for state in states}) == len(states)
    assert digest_tensors({"x": x}) == digest_tensors({"x": x.t().clone().t()})


def test_the_order_of_tensors_does_not_count_in_a_digest() -> None:
    x, y = torch.arange(4.0), torch.ones(2, 3)
    assert digest_tensors({"x": x, "y": y}) == digest_tensors({"y": y, "x": x})
    assert digest_tensors({"x": x, "y": y}) != digest_tensors({"x": y, "y": x})


def test_the_order_within_sets_and_mappings_does_not_count_in_a_digest() -> None:
    # Sets of small integers in two orders: no hash seed is asked.
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)
    assert digest_plain([one, {"a": 1, "b": 2}]) == digest_plain([other, {"b": 2, "a": 1}])
    assert digest_plain([1, 2]) != digest_plain([2, 1])
