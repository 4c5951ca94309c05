from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from chronorun.governance import ChronoLens, IdentityLens, SteeringMode, compute_lens_aux_loss

D, E = 16, 5


def make_lens(rows: torch.Tensor, shares: list[float], mode: str, s: float = 0.3) -> ChronoLens:
    lens = ChronoLens(D)
    lens.set_router_weights(rows)
    lens.update_steering(shares)
    lens.set_steering_mode(mode)
    lens.set_scale(s)
    return lens


def test_scale_zero_returns_the_input_itself() -> None:
    x = torch.randn(3, D)
    assert ChronoLens(D)(x) is x
    assert IdentityLens()(x) is x


@pytest.mark.parametrize("mode", ["anti_dominance", "entropy_max", "lift_tail"])
def test_the_direction_is_the_contracts_sum_over_experts(mode: str) -> None:
    rows, shares = torch.randn(E, D), [0.6, 0.2, 0.1, 0.1, 0.0]
    want = torch.zeros(D)
    tail = sum(max(0.0, 1 / E - share) for share in shares)
    for row, share in zip(rows, shares, strict=True):
        weight = 1 / E - share
        if mode == "lift_tail":
            weight = max(0.0, weight) / tail
        want += weight * (row - rows.mean(0) if mode == "entropy_max" else row)
    x = torch.randn(7, D)
    moved = make_lens(rows, shares, mode)(x)
    torch.testing.assert_close(moved, x + 0.3 * want / want.norm())


def test_abstain_moves_nothing() -> None:
    x = torch.randn(2, D)
    assert make_lens(torch.randn(E, D), [0.6, 0.1, 0.1, 0.1, 0.1], "abstain")(x) is x


def test_the_lens_reads_live_rows_and_gives_them_no_gradient() -> None:
    rows = torch.nn.Parameter(torch.randn(E, D))
    lens = make_lens(rows, [0.6, 0.1, 0.1, 0.1, 0.1], "anti_dominance")
    x = torch.randn(2, D, requires_grad=True)
    before = lens(x).detach()
    with torch.no_grad():
        rows.copy_(torch.randn(E, D))
    after = lens(x)
    assert not torch.equal(before, after)
    after.sum().backward()
    assert rows.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("n", [E - 2, E + 2])
def test_a_population_of_another_size_waits_for_new_shares(n: int) -> None:
    population = [torch.randn(E, D)]
    lens = ChronoLens(D)
    lens.set_router_weights(lambda: population[0])
    lens.set_scale(0.3)
    lens.update_steering([0.6, 0.1, 0.1, 0.1, 0.1])
    x = torch.randn(2, D)
    population[0] = torch.randn(n, D)
    assert lens(x) is x
    lens.update_steering([0.5, *[0.5 / (n - 1)] * (n - 1)])
    assert not torch.equal(lens(x), x)


def test_the_shares_are_kept_as_they_were_handed_over() -> None:
    shares = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    lens = make_lens(torch.randn(E, D), [0.2] * E, "anti_dominance")
    lens.update_steering(shares)
    x = torch.randn(2, D)
    before = lens(x)
    shares.fill_(0.2)
    assert torch.equal(lens(x), before)


def test_the_inputs_dtype_is_kept() -> None:
    lens = make_lens(torch.randn(E, D), [0.6, 0.1, 0.1, 0.1, 0.1], "anti_dominance")
    assert lens(torch.randn(2, D, dtype=torch.bfloat16)).dtype is torch.bfloat16


@pytest.mark.parametrize("mode", ["anti_dominance", "entropy_max", "lift_tail"])
@given(seed=st.integers(0, 2**31), n=st.integers(2, 40), s=st.floats(1e-3, 0.5))
def test_the_shift_is_as_long_as_the_scale(mode: str, seed: int, n: int, s: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(n, generator=generator) + torch.eye(n)[0]
    rows = torch.randn(n, D, generator=generator)
    lens = make_lens(rows, (shares / shares.sum()).tolist(), mode, s)
    shift = lens(torch.zeros(3, D)).norm(dim=-1)
    torch.testing.assert_close(shift, torch.full((3,), s), rtol=1e-4, atol=0)


def test_without_a_router_the_low_rank_path_warps() -> None:
    lens = ChronoLens(D, rank=4)
    lens.set_scale(0.5)
    x = torch.randn(2, D)
    torch.testing.assert_close(lens(x), x + 0.5 * (x @ lens.V) @ lens.U)
    norms = lens.get_norms()
    assert norms == {
        "u_norm": pytest.approx(lens.U.square().sum().sqrt().item()),
        "v_norm": pytest.approx(lens.V.square().sum().sqrt().item()),
    }
    assert all(0 < norm < 0.1 for norm in norms.values())


def test_making_a_lens_draws_no_global_random_number() -> None:
    before = torch.get_rng_state()
    ChronoLens(D)
    assert torch.equal(before, torch.get_rng_state())


def test_state_round_trip() -> None:
    lens = make_lens(torch.randn(E, D), [0.6, 0.1, 0.1, 0.1, 0.1], "lift_tail")
    other = ChronoLens(D)
    other.load_state(lens.state())
    assert (other.s, other.mode) == (0.3, SteeringMode.LIFT_TAIL)
    assert torch.equal(other._shares, lens._shares)  # type: ignore[arg-type]


def test_aux_loss_is_zero_on_target_and_positive_off_it() -> None:
    uniform = torch.full((10, 4), 0.25)
    assert compute_lens_aux_loss(uniform, 1.3, 0.6).item() == 0
    collapsed = torch.tensor([[0.97, 0.01, 0.01, 0.01]]).expand(10, 4)
    entropy = -sum(p * torch.log(torch.tensor(p)) for p in (0.97, 0.01, 0.01, 0.01))
    want = (1.3 - entropy) ** 2 + (0.98 - 0.6) ** 2
    torch.testing.assert_close(compute_lens_aux_loss(collapsed, 1.3, 0.6), want)
