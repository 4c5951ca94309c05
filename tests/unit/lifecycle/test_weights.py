"""Norms, changes and cosines of expert weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from unit.model.moe_reference import make_layer

from chronorun.lifecycle.observe.weights import ALL_EXACT_UP_TO, WeightWatch, flat_weights
from chronorun.model import MoELayer
from chronorun.model.population import rebuild

IDS = [f"L0_E{i}" for i in range(5)]


def rows(layer: MoELayer) -> np.ndarray:
    parts = [layer.experts.w1.detach().flatten(1), layer.experts.w2.detach().flatten(1)]
    return torch.cat(parts, dim=1).double().numpy()


def test_the_figures_are_those_of_numpy() -> None:
    layer = make_layer()
    watch = WeightWatch(layer)
    first = watch.look(IDS)
    before = rows(layer)
    assert first.norms == pytest.approx(np.linalg.norm(before, axis=1).tolist(), rel=1e-6)
    assert first.deltas == [0.0] * 5
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    np.testing.assert_allclose(first.cosines, unit @ unit.T, atol=1e-6)
    with torch.no_grad():
        # In place, as an optimizer does; router rows do not count.
        layer.experts.w1[2] += 0.5
        layer.router.weight += 1.0
    second = watch.look(IDS)
    moved = np.linalg.norm(rows(layer) - before, axis=1).tolist()
    assert second.deltas == pytest.approx(moved, rel=1e-5)
    assert [bool(d) for d in second.deltas] == [False, False, True, False, False]
    assert watch.look(IDS).deltas == [0.0] * 5


def test_what_was_looked_at_follows_the_expert_not_the_slot() -> None:
    layer = make_layer()
    watch = WeightWatch(layer)
    watch.look(IDS)
    newborn = {name: t.detach()[0] * 2 for name, t in layer.slot_tensors().items()}
    rebuild(layer, [4, 1, 3], [newborn])
    assert watch.look(["L0_E4", "L0_E1", "L0_E3", "L0_E5"]).deltas == [0.0] * 4
    # One that was away is seen anew.
    assert watch.look(["L0_E0", "L0_E1", "L0_E3", "L0_E5"]).deltas[0] == 0.0


def test_a_resume_remembers_the_last_look() -> None:
    layer = make_layer()
    watch, other = WeightWatch(layer), WeightWatch(layer)
    watch.look(IDS)
    other.load_state_dict(watch.state_dict())
    with torch.no_grad():
        layer.experts.w2[3] *= 1.5
    assert watch.look(IDS).deltas == other.look(IDS).deltas


def test_zero_weights_have_no_direction() -> None:
    layer = make_layer()
    with torch.no_grad():
        layer.experts.w1[1] = 0.0
        layer.experts.w2[1] = 0.0
    figures = WeightWatch(layer).look(IDS)
    assert figures.norms[1] == 0.0
    assert np.isfinite(figures.cosines).all()
    assert figures.cosines[1, 0] == 0.0


def test_flat_weights_are_a_copy() -> None:
    layer = make_layer()
    flat = flat_weights(layer)
    layer.experts.w1.data.zero_()
    assert flat.shape == (5, 2 * 8 * 16)
    assert flat.any()


def test_large_layers_find_their_alike_pairs_among_candidates() -> None:
    n = ALL_EXACT_UP_TO + 6
    layer = make_layer(num_experts=n, top_k=2)
    with torch.no_grad():
        for name in ("w1", "w2"):
            weight = getattr(layer.experts, name)
            weight[65] = weight[3] + 0.05 * torch.randn_like(weight[3])
    cosines = WeightWatch(layer).look([f"L0_E{i}" for i in range(n)]).cosines
    unit = rows(layer) / np.linalg.norm(rows(layer), axis=1, keepdims=True)
    known = ~np.isnan(cosines)
    np.testing.assert_allclose(cosines[known], (unit @ unit.T)[known], atol=1e-5)
    assert cosines[3, 65] == cosines[65, 3] > 0.95
    assert (np.diag(cosines) == 1.0).all()
    assert int(known.sum()) == n + 2 * 128


def test_in_a_large_layer_of_equal_experts_the_first_pairs_are_kept() -> None:
    n = ALL_EXACT_UP_TO + 6
    layer = make_layer(num_experts=n)
    with torch.no_grad():
        for weight in (layer.experts.w1, layer.experts.w2):
            weight[:] = weight[0]
    cosines = WeightWatch(layer).look([f"L0_E{i}" for i in range(n)]).cosines
    rows, columns = np.nonzero(np.triu(~np.isnan(cosines), k=1))
    first = [(0, j) for j in range(1, n)] + [(1, j) for j in range(2, n)]
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == first[:128]
