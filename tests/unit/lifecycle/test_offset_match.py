"""The offset gives a merged expert the wanted fraction of tokens, counted by a plain top-k."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from chronorun.lifecycle.edit.offset_match import match_offset

INF = math.inf


def chosen(logit_T: Tensor, rivals_TE: Tensor, top_k: int, offset: float) -> int:
    """Count the tokens that have the merged expert, the last column, among their top k."""
    scores = torch.cat([rivals_TE, (logit_T + offset)[:, None]], dim=1)
    k = min(top_k, scores.shape[1])
    return int((scores.topk(k, dim=1).indices == rivals_TE.shape[1]).sum())


def draw(seed: int, tokens: int = 101, rivals: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logit = 2.0 * torch.randn(tokens, generator=generator, dtype=torch.float64)
    return logit, 2.0 * torch.randn(tokens, rivals, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_reachable_count_of_tokens_is_met_exactly(top_k: int) -> None:
    logit, rivals = draw(0)
    for count in range(102):
        offset = match_offset(logit, rivals, top_k, count / 101)
        assert chosen(logit, rivals, top_k, offset) == count


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_a_fraction_between_two_counts_gets_the_nearer_one(top_k: int) -> None:
    logit, rivals = draw(1)
    for wanted, count in ((40.4, 40), (40.6, 41), (0.3, 0), (100.8, 101)):
        offset = match_offset(logit, rivals, top_k, wanted / 101)
        assert chosen(logit, rivals, top_k, offset) == count


@given(
    seed=st.integers(0, 1000),
    top_k=st.integers(1, 3),
    fraction=st.floats(0.0, 1.0),
    ruled_out=st.floats(0.0, 0.9),
)
def test_no_offset_on_a_grid_comes_nearer(
    seed: int, top_k: int, fraction: float, ruled_out: float
) -> None:
    logit, rivals = draw(seed, tokens=20, rivals=4)
    # Whole numbers tie often; the grid lies between them, where top-k has no ties to break.
    logit, rivals = logit.round(), rivals.round()
    mask = torch.rand(20, 4, generator=torch.Generator().manual_seed(seed)) < ruled_out
    rivals = rivals.masked_fill(mask, -INF)
    best = min(
        abs(chosen(logit, rivals, top_k, half / 2) - fraction * 20) for half in range(-41, 43, 2)
    )
    # A token without k rivals is lost only to another -inf; nobody's logit is -inf here.
    got = chosen(logit, rivals, top_k, match_offset(logit, rivals, top_k, fraction))
    assert abs(got - fraction * 20) <= best + 1e-9


def test_the_offset_lies_halfway_between_neighbouring_tokens() -> None:
    logit = torch.zeros(4)
    rivals = torch.tensor([[1.0], [2.0], [5.0], [9.0]])
    assert match_offset(logit, rivals, 1, 0.25) == 1.5
    assert match_offset(logit, rivals, 1, 0.50) == 3.5
    assert match_offset(logit, rivals, 1, 0.75) == 7.0


def test_more_places_ask_for_less_offset() -> None:
    logit = torch.zeros(2)
    rivals = torch.tensor([[5.0, 3.0, 1.0], [7.0, 5.0, 3.0]])
    assert [match_offset(logit, rivals, k, 0.5) for k in (1, 2, 3)] == [6.0, 4.0, 2.0]


def test_all_or_no_tokens_take_an_offset_just_beyond_the_last_one() -> None:
    logit, rivals = draw(2)
    nearest = rivals.amax(1) - logit
    least, most = float(nearest.min()), float(nearest.max())
    assert least < 0.0 < most
    assert chosen(logit, rivals, 1, match_offset(logit, rivals, 1, 0.0)) == 0
    assert chosen(logit, rivals, 1, match_offset(logit, rivals, 1, 1.0)) == 101
    assert least - 0.1 < match_offset(logit, rivals, 1, 0.0) < least
    assert most < match_offset(logit, rivals, 1, 1.0) < most + 0.1


def test_what_holds_without_an_offset_gets_none() -> None:
    logit, rivals = torch.zeros(3), torch.tensor([[1.0], [2.0], [3.0]])
    assert match_offset(logit, rivals, 1, 0.0) == 0.0
    assert match_offset(logit, -rivals, 1, 1.0) == 0.0


def test_an_expert_with_too_few_rivals_needs_no_offset() -> None:
    logit, rivals = draw(3, rivals=1)
    for fraction in (0.0, 0.4, 1.0):
        assert match_offset(logit, rivals, 2, fraction) == 0.0
        assert match_offset(logit, rivals[:, :0], 1, fraction) == 0.0


def test_rivals_that_are_all_ruled_out_need_no_offset() -> None:
    logit, rivals = draw(4)
    assert match_offset(logit, torch.full_like(rivals, -INF), 1, 0.3) == 0.0


def test_an_expert_that_is_ruled_out_everywhere_gets_no_offset() -> None:
    logit, rivals = draw(5)
    ruled_out = torch.full_like(logit, -INF)
    assert match_offset(ruled_out, rivals, 1, 0.3) == 0.0
    assert match_offset(ruled_out, torch.full_like(rivals, -INF), 1, 0.3) == 0.0


def test_tokens_without_enough_rivals_are_chosen_whatever_the_fraction() -> None:
    logit = torch.zeros(4)
    rivals = torch.tensor([[-INF], [-INF], [-INF], [2.0]])
    offset = match_offset(logit, rivals, 1, 0.25)
    assert chosen(logit, rivals, 1, offset) == 3
    assert offset < 2.0


def test_tied_tokens_go_to_the_nearest_count_that_can_be_met() -> None:
    logit, rivals = torch.zeros(5), torch.tensor([[1.0], [3.0], [3.0], [3.0], [4.0]])
    assert match_offset(logit, rivals, 1, 0.4) == 2.0
    assert match_offset(logit, rivals, 1, 0.6) == 3.5


def test_no_probe_tokens_give_no_offset() -> None:
    assert match_offset(torch.zeros(0), torch.zeros(0, 3), 1, 0.5) == 0.0


def test_the_offset_stays_within_its_bounds() -> None:
    logit, rivals = torch.zeros(2), torch.tensor([[50.0], [60.0]])
    assert match_offset(logit, rivals, 1, 0.5) == 20.0
    assert match_offset(logit, -rivals, 1, 0.5) == -20.0
    assert match_offset(logit, rivals, 1, 0.5, high=57.0) == 55.0
    assert match_offset(logit, -rivals, 1, 0.5, low=-3.0) == -3.0


def test_the_caller_s_logits_stay_as_they_are() -> None:
    logit, rivals = draw(6)
    before = logit.clone(), rivals.clone()
    match_offset(logit, rivals, 2, 0.5)
    assert torch.equal(logit, before[0])
    assert torch.equal(rivals, before[1])
