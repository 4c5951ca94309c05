"""Experts that differ in the order of their hidden units only are recognised as the same."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from chronorun.lifecycle.edit.alignment import align, average, hidden_permutation, permute_hidden

AXES = {"experts.w1": 1, "experts.w2": 0}
D_MODEL, D_FF = 6, 5


def expert(seed: int, d_ff: int = D_FF) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "experts.w1": torch.randn(D_MODEL, d_ff, generator=draw),
        "experts.w2": torch.randn(d_ff, D_MODEL, generator=draw),
        "router.weight": torch.randn(D_MODEL, generator=draw),
        "router.load": torch.tensor(seed),
    }


def apply(values: dict[str, Tensor], x_TD: Tensor) -> Tensor:
    return F.gelu(x_TD @ values["experts.w1"]) @ values["experts.w2"]


def shuffled(values: dict[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    return values | {
        "experts.w1": values["experts.w1"][:, order],
        "experts.w2": values["experts.w2"][order],
    }


def similarity(values: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    return sum(float((values[name].double() * reference[name].double()).sum()) for name in AXES)


def test_a_shuffled_copy_is_put_back_in_order_in_spite_of_noise() -> None:
    reference = expert(0, d_ff=64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
    copy = shuffled(reference, order)
    noisy = copy | {name: copy[name] + 0.1 * expert(2, d_ff=64)[name] for name in AXES}
    aligned = align(noisy, reference, AXES)
    back = [order.index(i) for i in range(64)]
    for name in AXES:
        assert torch.equal(aligned[name], shuffled(noisy, back)[name])


def test_an_aligned_expert_computes_what_it_did() -> None:
    first, second = expert(0), expert(1)
    aligned = align(second, first, AXES)
    assert not torch.equal(aligned["experts.w1"], second["experts.w1"])
    x = torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(apply(aligned, x), apply(second, x), rtol=1e-5, atol=1e-5)


def test_no_other_order_of_the_hidden_units_is_more_similar() -> None:
    for seed in range(5):
        first, second = expert(seed), expert(seed + 100)
        best = max(
            similarity(shuffled(second, list(order)), first)
            for order in itertools.permutations(range(D_FF))
        )
        assert abs(similarity(align(second, first, AXES), first) - best) < 1e-9


def test_both_weights_of_a_unit_decide_which_unit_it_matches() -> None:
    same = torch.ones(D_MODEL, 2)
    out = torch.eye(2, D_MODEL)
    reference = {"experts.w1": same, "experts.w2": out}
    values = {"experts.w1": same, "experts.w2": out.flip(0)}
    assert hidden_permutation(values, reference, AXES).tolist() == [1, 0]
    values = {"experts.w1": out.flip(0).t(), "experts.w2": same.t()}
    reference = {"experts.w1": out.t(), "experts.w2": same.t()}
    assert hidden_permutation(values, reference, AXES).tolist() == [1, 0]


def test_the_permutation_moves_optimizer_moments_with_their_weights() -> None:
    reference, order = expert(0), [3, 0, 4, 1, 2]
    weights = shuffled(reference, order)
    # Each moment is a function of its weight, so that they still belong together afterwards.
    moments = {name: weights[name].square() for name in AXES}
    permutation = hidden_permutation(weights, reference, AXES)
    moved = permute_hidden(moments, permutation, AXES)
    for name in AXES:
        assert torch.equal(moved[name], reference[name].square())


def test_only_tensors_with_a_hidden_axis_are_permuted() -> None:
    reference = expert(0)
    aligned = align(shuffled(reference, [3, 0, 4, 1, 2]), reference, AXES)
    assert aligned.keys() == reference.keys()
    assert aligned["router.weight"] is reference["router.weight"]
    assert aligned["router.load"] is reference["router.load"]


def test_an_expert_without_hidden_axes_is_left_as_it_is() -> None:
    values = expert(0)
    aligned = align(values, expert(1), {})
    assert aligned.keys() == values.keys()
    assert all(aligned[name] is values[name] for name in values)


def test_the_average_weighs_the_first_by_the_weight() -> None:
    first, second = {"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([0.0, 8.0])}
    assert average(first, second, 0.25)["w"].tolist() == [1.0, 6.0]


def test_averaging_equal_experts_changes_no_bit() -> None:
    values = expert(0)
    for weight in (0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0):
        merged = average(values, expert(0), weight)
        for name in ("experts.w1", "experts.w2", "router.weight"):
            assert torch.equal(merged[name], values[name])


def test_a_weight_of_zero_or_one_returns_one_of_the_two() -> None:
    first, second = expert(0), expert(1)
    for weight, expected in ((1.0, first), (0.0, second)):
        merged = average(first, second, weight)
        assert all(torch.equal(merged[name], expected[name]) for name in AXES)


def test_counts_of_merged_experts_are_added() -> None:
    merged = average({"load": torch.tensor(7)}, {"load": torch.tensor(4)}, 0.25)
    assert merged["load"].dtype == torch.int64
    assert merged["load"].item() == 11


def test_aligned_copies_average_to_the_function_they_both_compute() -> None:
    first = expert(0)
    second = shuffled(first, [3, 0, 4, 1, 2])
    x = torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(3))
    naive = apply(average(first, second, 0.5), x)
    merged = apply(average(first, align(second, first, AXES), 0.5), x)
    torch.testing.assert_close(merged, apply(first, x), rtol=1e-6, atol=1e-6)
    assert (naive - apply(first, x)).norm() > 0.3 * apply(first, x).norm()
