"""Two populations among an expert's inputs are told from one, whatever the shape of the one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from chronorun.lifecycle.observe.two_mode import (
    MIN_INPUTS,
    TwoModes,
    _principal_direction,
    _two_means,
    two_mode_score,
    two_modes,
)


def gaussian(seed: int, n: int = 400, d: int = 64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def clusters(seed: int, n: int = 400, d: int = 64, *, apart: float, second: int) -> Tensor:
    """Draw two unit Gaussians, means ``apart``; the last ``second`` inputs are the second one's."""
    axis = torch.nn.functional.normalize(gaussian(seed + 1000, 1, d)[0], dim=0)
    x = gaussian(seed, n, d) + 3.0
    x[n - second :] += apart * axis
    return x


def sides(modes: TwoModes, x: Tensor) -> Tensor:
    return x @ modes.direction_D > modes.threshold


def agreement(side: Tensor, second: Tensor) -> float:
    same = float((side == second).double().mean())
    return max(same, 1.0 - same)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "d"), [(400, 64), (50, 128), (16, 64), (2000, 16)])
def test_one_isotropic_gaussian_scores_low(seed: int, n: int, d: int) -> None:
    assert two_modes(gaussian(seed, n, d)).score < 0.1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", ["linear", "one long axis", "power law"])
def test_one_stretched_gaussian_scores_low(seed: int, spread: str) -> None:
    scale = {
        "linear": torch.linspace(5.0, 0.1, 64),
        "one long axis": torch.tensor([10.0] + [1.0] * 63),
        "power law": torch.arange(1.0, 65.0).rsqrt(),
    }[spread]
    assert two_modes(gaussian(seed) * scale + 2.0).score < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_two_separated_clusters_score_high_and_are_parted(seed: int) -> None:
    x = clusters(seed, apart=8.0, second=200)
    modes = two_modes(x)
    assert modes.score > 0.6
    assert agreement(sides(modes, x), torch.arange(400) >= 200) >= 0.95


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_found_with_fewer_inputs_than_dimensions(seed: int) -> None:
    x = clusters(seed, n=50, d=128, apart=12.0, second=25)
    modes = two_modes(x)
    assert modes.score > 0.6
    assert agreement(sides(modes, x), torch.arange(50) >= 25) >= 0.95


@pytest.mark.parametrize("seed", range(5))
def test_a_small_cluster_scores_low_by_its_balance(seed: int) -> None:
    modes = two_modes(clusters(seed, apart=12.0, second=20))
    assert modes.separation > 0.6
    assert modes.balance == pytest.approx(4 * 0.05 * 0.95, abs=0.1)
    assert modes.score < 0.25


def test_the_score_grows_with_the_distance_of_the_clusters() -> None:
    scores = [two_modes(clusters(0, apart=a, second=200)).score for a in (0, 4, 6, 8, 16)]
    assert scores == sorted(scores)
    assert scores[1] > 0.1 > scores[0]
    assert scores[-1] < 1.0


def test_clusters_a_known_distance_apart_have_the_separation_it_stands_for() -> None:
    # So far apart that no input is on the wrong side; the Gaussian's own 2.65 is taken off.
    x = clusters(0, n=4000, d=2, apart=7.0, second=2000)
    excess = 7.0 * (1 - 2 / math.sqrt(2 * 4000)) - 2.647
    assert two_modes(x).separation == pytest.approx(excess**2 / (excess**2 + 4), abs=0.01)


def test_the_direction_avoids_noisy_dimensions() -> None:
    x = 0.5 * gaussian(0, n=2000, d=8)
    x[:, 0] *= 4.0
    x[1000:, :2] += 6.0
    direction = two_modes(x).direction_D
    # The centroids differ as much along the noisy dimension as along the quiet one.
    assert abs(direction[1]) > 5.0 * abs(direction[0])


@pytest.mark.parametrize("n", [8, 9, 50, 400, 401])
@pytest.mark.parametrize("apart", [0.0, 8.0])
def test_the_threshold_sends_half_of_the_inputs_to_each_side(n: int, apart: float) -> None:
    x = clusters(0, n=n, apart=apart, second=n // 4)
    assert abs(int(sides(two_modes(x), x).sum()) - n / 2) <= 0.5


def test_an_even_number_of_inputs_has_its_threshold_between_the_middle_two() -> None:
    x = clusters(0, apart=8.0, second=200)
    modes = two_modes(x)
    along = (x @ modes.direction_D).sort().values
    assert float(modes.threshold) == pytest.approx(float(along[199] + along[200]) / 2, rel=1e-5)
    assert along[199] < modes.threshold < along[200]


def test_the_direction_is_a_unit_vector_with_its_largest_component_positive() -> None:
    for x in (clusters(0, apart=8.0, second=200), gaussian(1), gaussian(2, n=5)):
        for inputs in (x, -x):
            direction = two_modes(inputs).direction_D
            assert float(direction.norm()) == pytest.approx(1.0, abs=1e-6)
            assert direction[direction.abs().argmax()] > 0.0


def test_equal_inputs_give_equal_bits_and_draw_no_random_numbers() -> None:
    x = clusters(0, apart=6.0, second=150)
    torch.manual_seed(1)
    first = two_modes(x)
    torch.rand(7)
    state = torch.get_rng_state()
    again = two_modes(x.clone())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.direction_D, again.direction_D)
    assert torch.equal(first.threshold, again.threshold)
    assert (first.score, first.separation) == (again.score, again.separation)


@given(st.integers(0, 40), st.sampled_from([0.0, 1.0, 0.1, -3e4, 1e-20]), st.integers(1, 5))
def test_constant_inputs_score_zero_and_are_finite(n: int, value: float, d: int) -> None:
    modes = two_modes(torch.full((n, d), value))
    assert modes.score == 0.0
    assert modes.direction_D.tolist() == [1.0] + [0.0] * (d - 1)
    assert float(modes.threshold) == pytest.approx(value if n else 0.0)


@given(st.integers(0, 1000), st.integers(0, 30), st.integers(1, 40), st.integers(1, 4))
def test_repeated_inputs_give_finite_results(seed: int, n: int, d: int, distinct: int) -> None:
    pick = torch.randint(distinct, (n,), generator=torch.Generator().manual_seed(seed))
    modes = two_modes(gaussian(seed, distinct, d)[pick])
    assert 0.0 <= modes.score <= 1.0
    assert modes.direction_D.isfinite().all()
    assert float(modes.direction_D.norm()) == pytest.approx(1.0, abs=1e-6)
    assert modes.threshold.isfinite()


def test_two_repeated_inputs_are_two_populations() -> None:
    x = gaussian(0, 2, 16)[torch.arange(40) % 2]
    modes = two_modes(x)
    assert modes.score > 0.9
    assert agreement(sides(modes, x), torch.arange(40) % 2 == 1) == 1.0


def test_too_few_inputs_are_not_judged_but_have_a_plane() -> None:
    x = clusters(0, n=MIN_INPUTS - 1, apart=12.0, second=3)
    modes = two_modes(x)
    assert (modes.score, modes.separation, modes.balance) == (0.0, 0.0, 0.0)
    centred = (x - x.mean(0)).double()
    leading = torch.linalg.eigh(centred.t() @ centred).eigenvectors[:, -1]
    assert abs(float(leading @ modes.direction_D.double())) == pytest.approx(1.0, abs=1e-4)
    assert int(sides(modes, x).sum()) == 3


def test_score_is_separation_times_balance() -> None:
    modes = two_modes(clusters(0, apart=8.0, second=100))
    assert 0.0 < modes.balance < 1.0
    assert modes.score == modes.separation * modes.balance


def test_half_precision_inputs_get_a_plane_in_float32() -> None:
    modes = two_modes(clusters(0, apart=8.0, second=200).bfloat16())
    assert modes.direction_D.dtype == modes.threshold.dtype == torch.float32
    assert modes.threshold.shape == ()
    assert modes.score > 0.6


@pytest.mark.parametrize("n", [0, MIN_INPUTS - 1, MIN_INPUTS, 200])
def test_the_score_alone_is_that_of_the_plane_bit_for_bit(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 6, generator=generator)
    x[: n // 3] += 4.0
    assert two_mode_score(x) == two_modes(x).score


@pytest.mark.parametrize(("n", "d"), [(400, 64), (50, 128), (64, 64)])
def test_the_principal_direction_is_that_of_the_eigenvectors(n: int, d: int) -> None:
    x = clusters(7, n, d, apart=12.0, second=n // 3).double()
    x = x - x.mean(0)
    leading = torch.linalg.eigh(x.t() @ x).eigenvectors[:, -1]
    assert float((_principal_direction(x) @ leading).abs()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "d"), [(300, 16), (40, 64)])
def test_two_means_ends_where_no_input_is_nearer_to_the_other_centroid(
    seed: int, n: int, d: int
) -> None:
    x = clusters(seed, n, d, apart=8.0, second=n // 4).double()
    x = x - x.mean(0)
    side = _two_means(x)
    to_upper = (x - x[side].mean(0)).norm(dim=1)
    to_lower = (x - x[~side].mean(0)).norm(dim=1)
    assert torch.equal(side, to_upper < to_lower)
