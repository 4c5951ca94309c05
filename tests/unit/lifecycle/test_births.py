"""What newborn and merged experts are made of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from unit.lifecycle.small_run import SmallRun, same
from unit.model.moe_reference import make_layer, reference, tokens

from chronorun.config.lifecycle import (
    ChildMoments,
    LifecycleConfig,
    MergedMoments,
    MergeOffset,
    MergeWeights,
    SpawnInit,
)
from chronorun.config.model import GateOrder, RouterConfig
from chronorun.lifecycle.edit import births
from chronorun.lifecycle.edit.alignment import permute_hidden
from chronorun.lifecycle.edit.saved import Saved
from chronorun.model import MoELayer, read_expert
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS, rebuild

AXES = {"experts.w1": 1, "experts.w2": 0}
WEIGHTS = tuple(AXES)


def saved(layer: MoELayer, slot: int) -> Saved:
    """Return an expert with a history: moments that tell where they come from."""
    values = read_expert(layer, slot)
    values[LOGIT_OFFSET] = torch.tensor(0.25 * slot)
    values["router.load"] = torch.tensor(7)
    moments = {
        name: {"exp_avg": 0.1 * values[name], "exp_avg_sq": values[name].square()}
        for name in (*WEIGHTS, ROUTER_ROWS)
    }
    return Saved(values, moments)


def rms(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())


def function(values: dict[str, Tensor], x_TD: Tensor) -> Tensor:
    return F.gelu(x_TD @ values["experts.w1"]) @ values["experts.w2"]


# ---- clones ----------------------------------------------------------------------------------


def test_noise_is_a_function_of_seed_step_and_id_alone() -> None:
    def draw(*of: object) -> Tensor:
        return torch.randn(5, generator=births.seeded(*of))  # type: ignore[arg-type]

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw(1, 2, "L0_E3")
    assert torch.equal(first, draw(1, 2, "L0_E3"))
    assert torch.equal(torch.get_rng_state(), state)
    for other in [(0, 2, "L0_E3"), (1, 3, "L0_E3"), (1, 2, "L0_E4"), (12, 0, "L0_E3")]:
        assert not torch.equal(first, draw(*other))


@pytest.mark.parametrize("scale", [0.01, 0.3])
def test_a_clone_differs_by_noise_relative_to_each_weights_rms(scale: float) -> None:
    parent = saved(make_layer(d_model=32, d_ff=64), 2)
    config = LifecycleConfig(split_perturbation_scale=scale)
    child, rewarm = births.clone_of(parent, config, births.seeded(0, 5, "L0_E5"))
    again, _ = births.clone_of(parent, config, births.seeded(0, 5, "L0_E5"))
    assert same(child.values, again.values)
    assert not rewarm
    for name in WEIGHTS:
        noise = child.values[name] - parent.values[name]
        assert rms(noise) == pytest.approx(scale * rms(parent.values[name]), rel=0.05)
    for name in (ROUTER_ROWS, LOGIT_OFFSET, "router.selection_bias"):
        assert torch.equal(child.values[name], parent.values[name])
    assert int(child.values["router.load"]) == 0
    assert int(parent.values["router.load"]) == 7


def test_a_clone_without_noise_is_its_parent() -> None:
    parent = saved(make_layer(), 2)
    config = LifecycleConfig(split_perturbation_scale=0.0)
    child, _ = births.clone_of(parent, config, births.seeded(0, 5, "L0_E5"))
    for name in WEIGHTS:
        assert torch.equal(child.values[name], parent.values[name])
        assert child.values[name] is not parent.values[name]


@pytest.mark.parametrize("how", ChildMoments)
def test_only_blank_moments_with_a_ramp_ask_for_it(how: ChildMoments) -> None:
    parent = saved(make_layer(), 2)
    config = LifecycleConfig(child_moments=how)
    child, rewarm = births.clone_of(parent, config, births.seeded(0, 5, "L0_E5"))
    assert rewarm is (how is ChildMoments.zero)
    assert child.moments["experts.w1"]["exp_avg_sq"].any() == (how not in births.BLANK)


# ---- spawns ----------------------------------------------------------------------------------


def spawn(
    strategy: SpawnInit, cluster: list[Saved], tokens_ND: Tensor | None = None, **options: object
) -> tuple[Saved, bool]:
    layer = make_layer()
    config = LifecycleConfig(spawn_init_strategy=strategy, **options)  # type: ignore[arg-type]
    population = [read_expert(layer, slot) for slot in range(layer.num_experts)]
    generator = births.seeded(0, 5, "L0_E5")
    return births.spawned(cluster, population, tokens_ND, AXES, config, generator)


def test_clone_and_perturb_takes_the_most_loaded_expert() -> None:
    layer = make_layer()
    cluster = [saved(layer, 3), saved(layer, 1)]
    made, _ = spawn(SpawnInit.clone_and_perturb, cluster, torch.randn(9, 8))
    clone, _ = births.clone_of(cluster[0], LifecycleConfig(), births.seeded(0, 5, "L0_E5"))
    assert same(made.values, clone.values)


def test_mean_cluster_averages_units_that_match_and_points_at_neglected_tokens() -> None:
    layer = make_layer()
    first = saved(layer, 3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    # Two copies in another order of hidden units: their mean is the expert itself.
    copies = [Saved(permute_hidden(first.values, order, AXES)) for _ in range(2)]
    x_ND = torch.randn(50, 8) + 2.0
    made, rewarm = spawn(SpawnInit.mean_cluster, [first, *copies], x_ND)
    for name in WEIGHTS:
        torch.testing.assert_close(made.values[name], first.values[name])
    row, centre = made.values[ROUTER_ROWS], x_ND.mean(0)
    assert float(F.cosine_similarity(row, centre, dim=0)) == pytest.approx(1.0, abs=1e-6)
    assert float(row.norm()) == pytest.approx(layer.router.weight.norm(dim=1).mean().item())
    assert float(made.values[LOGIT_OFFSET]) == 0.0
    assert int(made.values["router.load"]) == 0
    assert not rewarm
    assert torch.equal(
        made.moments["experts.w1"]["exp_avg_sq"], first.moments["experts.w1"]["exp_avg_sq"]
    )


def test_a_random_spawn_has_the_populations_scale_and_no_history() -> None:
    layer = make_layer()
    made, rewarm = spawn(SpawnInit.random, [saved(layer, 3)])
    for name in WEIGHTS:
        scale = sum(rms(read_expert(layer, e)[name]) for e in range(5)) / 5
        assert rms(made.values[name]) == pytest.approx(scale, rel=0.25)
        assert not made.moments[name]["exp_avg_sq"].any()
    torch.testing.assert_close(made.values[ROUTER_ROWS], layer.router.weight.detach().mean(0))
    assert rewarm
    _, rewarm = spawn(SpawnInit.random, [saved(layer, 3)], child_moments="zero_no_rewarm")
    assert not rewarm


@pytest.mark.parametrize("drifted", [False, True])
def test_a_revived_expert_keeps_its_row_unless_the_inputs_drifted(drifted: bool) -> None:
    layer = make_layer()
    archived = saved(layer, 2)
    population = [read_expert(layer, slot) for slot in (0, 1)]
    x_ND = torch.randn(30, 8) + 2.0
    made, rewarm = births.revived(archived, population, x_ND, drifted, LifecycleConfig())
    for name in WEIGHTS:
        assert torch.equal(made.values[name], archived.values[name])
    assert float(made.values[LOGIT_OFFSET]) == 0.0
    assert float(archived.values[LOGIT_OFFSET]) == 0.5
    expected = births.row_for(x_ND, population) if drifted else archived.values[ROUTER_ROWS]
    assert torch.equal(made.values[ROUTER_ROWS], expected)
    assert not rewarm
    assert not made.moments["experts.w1"]["exp_avg"].any()


# ---- merges ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", MergeWeights)
def test_merging_one_function_in_two_orders_of_units_gives_that_function(
    weights: MergeWeights,
) -> None:
    survivor = saved(make_layer(), 1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    absorbed = Saved(
        permute_hidden(survivor.values, order, AXES),
        {
            name: permute_hidden(entries, order, dict.fromkeys(entries, AXES[name]))
            if name in AXES
            else entries
            for name, entries in survivor.moments.items()
        },
    )
    config = LifecycleConfig(merge_weights=weights, merged_moments=MergedMoments.share_weighted)
    made = births.merged(survivor, absorbed, (0.3, 0.1), AXES, config)
    x_TD = tokens(64).detach()[0]
    torch.testing.assert_close(function(made.values, x_TD), function(survivor.values, x_TD))
    for name in (*WEIGHTS, ROUTER_ROWS):
        for entry, value in made.moments[name].items():
            torch.testing.assert_close(value, survivor.moments[name][entry])


def test_a_merge_by_share_weighs_by_share() -> None:
    layer = make_layer()
    survivor, absorbed = saved(layer, 1), saved(layer, 2)
    by_share = LifecycleConfig(merge_weights=MergeWeights.share)
    made = births.merged(survivor, absorbed, (0.3, 0.1), {}, by_share)
    for name in (*WEIGHTS, ROUTER_ROWS, LOGIT_OFFSET):
        torch.testing.assert_close(
            made.values[name], 0.75 * survivor.values[name] + 0.25 * absorbed.values[name]
        )
    assert int(made.values["router.load"]) == 14
    # Without any share there is nothing to weigh by.
    made = births.merged(survivor, absorbed, (0.0, 0.0), {}, by_share)
    torch.testing.assert_close(
        made.values[ROUTER_ROWS], (survivor.values[ROUTER_ROWS] + absorbed.values[ROUTER_ROWS]) / 2
    )


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_matched_offset_keeps_the_share_of_the_two(top_k: int) -> None:
    layer = make_layer(num_experts=5, top_k=top_k)
    x_TD = tokens(400).detach()[0]
    routing, _, _ = layer.route(x_TD)
    wanted = (torch.isin(routing.expert_index_KT, torch.tensor([1, 3]))).any(0)
    pair = saved(layer, 1), saved(layer, 3)
    made = births.merged(*pair, (0.2, 0.2), AXES, LifecycleConfig())
    routing = routing.detach()
    offset = births.merged_offset(made.values, routing, (1, 3), MergeOffset.match)
    rebuild(layer, [0, 2, 4], [made.values | {LOGIT_OFFSET: torch.tensor(offset)}])
    got = (layer.route(x_TD)[0].expert_index_KT == 3).any(0)
    assert int(got.sum()) == int(wanted.sum())
    base = float(made.values[LOGIT_OFFSET])
    for how, expected in [(MergeOffset.zero, base), (MergeOffset.ln2, base + births.LN2)]:
        assert births.merged_offset(made.values, routing, (1, 3), how) == pytest.approx(expected)
    assert births.merged_offset(made.values, None, (1, 3), MergeOffset.match) == base


# ---- releases --------------------------------------------------------------------------------


def test_released_rows_part_the_tokens_at_the_plane() -> None:
    layer = make_layer(top_k=1)
    parent = saved(layer, 1)
    u = F.normalize(torch.randn(8, generator=torch.Generator().manual_seed(4)), dim=0)
    m, delta = torch.tensor(0.3), 0.05
    rows = births.released(parent.values, u, m, delta)
    w, b = parent.values[ROUTER_ROWS], float(parent.values[LOGIT_OFFSET])
    for x in tokens(40).detach()[0]:
        apart = delta * float(w.norm()) * (float(u @ x) - 0.3)
        mine, childs = (float(r[ROUTER_ROWS] @ x + r[LOGIT_OFFSET]) for r in rows)
        assert mine == pytest.approx(float(w @ x) + b - apart, abs=1e-5)
        assert childs == pytest.approx(float(w @ x) + b + apart, abs=1e-5)
        assert (childs > mine) == (float(u @ x) > 0.3)


def test_a_released_child_competes_with_what_the_pair_shared() -> None:
    """A hidden child's selection bias drifts up unopposed, its noise row is not trained."""
    router = RouterConfig(loss_free=True, noisy=True, bias_update_rate=0.05)
    run = SmallRun(top_k=1, router=router)
    run.train(4)
    child = run.split("L0_E1").expert_id
    run.train(6)
    biases = run.layers[0].router.selection_bias
    assert biases[4] > biases[1]
    before = run.layers[0].router.selection_bias[:4].clone()
    run.population.release_twins(run.step, {child: 99})
    parent_values, child_values = (
        read_expert(run.layers[0], run.registry.slot_of(name)) for name in ("L0_E1", child)
    )
    for name in ("router.selection_bias", "router.noise_weight"):
        assert torch.equal(parent_values[name], child_values[name])
    assert torch.equal(run.layers[0].router.selection_bias[:4], before)


# ---- the mechanics of an exclusive pair, on a layer that was trained -------------------------


ROUTERS = {
    "plain": RouterConfig(),
    "softmax_then_topk": RouterConfig(gate_order=GateOrder.softmax_then_topk),
    "loss_free": RouterConfig(loss_free=True, bias_update_rate=0.02),
    "capacity": RouterConfig(capacity_factor=1.0),
    "noisy": RouterConfig(noisy=True),
}


def per_token(layer: MoELayer, x_TD: Tensor) -> Tensor:
    """Compute the output with one weight set per token and choice, twins by the plane's side."""
    routing, _, _ = layer.route(x_TD)
    y = torch.zeros_like(x_TD)
    for k in range(layer.top_k):
        for t in range(len(x_TD)):
            e = int(routing.expert_index_KT[k, t])
            values = {"experts.w1": layer.experts.w1[e], "experts.w2": layer.experts.w2[e]}
            y[t] += routing.gate_KT[k, t] * function(values, x_TD[t : t + 1])[0]
    return y


def fixed_noise(like: Tensor) -> Tensor:
    """Return noise that depends on token and expert only, not on how many experts there are."""
    rows, columns = like.shape
    t, e = torch.arange(rows)[:, None], torch.arange(columns)[None]
    return torch.sin(12.9898 * t + 78.233 * e)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("kind", sorted(ROUTERS))
def test_a_split_without_noise_is_not_felt(
    kind: str, top_k: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LifecycleConfig(split_perturbation_scale=0.0)
    run = SmallRun(top_k=top_k, router=ROUTERS[kind], config=config)
    run.train(15)
    layer = run.layers[0].train(training)
    # No population manager looks on: one forward each, before and after.
    layer.observer = layer.gate_observer = None
    monkeypatch.setattr(torch, "randn_like", fixed_noise)
    x_TD = run.tap.routing[0].x_TD[:48].clone()
    with torch.no_grad():
        y, losses = layer(x_TD[None])
        plain = per_token(layer, x_TD)
        child = run.split("L0_E1")
        layer.train(training)
        split_y, split_losses = layer(x_TD[None])
        index_KT = layer.route(x_TD)[0].expert_index_KT
        # One weight set at a time: bit for bit what it was.
        assert torch.equal(per_token(layer, x_TD), plain)
    assert child.receipt["output_change"] <= 1e-6
    assert child.receipt["gate_kl"] <= 1e-12
    assert {1, 4} <= set(index_KT.flatten().tolist())
    assert float((split_y - y).norm() / y.norm()) <= 1e-6
    for name, value in vars(losses).items():
        torch.testing.assert_close(getattr(split_losses, name), value, rtol=1e-6, atol=1e-7)


def test_a_pair_shares_one_draw_of_noise() -> None:
    """Were the child's noise drawn apart, the pair would be chosen for either's luck."""
    run = SmallRun(top_k=1, router=RouterConfig(noisy=True))
    run.train(10)
    run.split("L0_E1")
    layer = run.layers[0]
    x_TD = run.tap.routing[1].x_TD[:48]
    torch.manual_seed(5)
    with torch.no_grad():
        logits_TE = layer.router.logits(x_TD)
        torch.manual_seed(5)
        routing, _, _ = layer.route(x_TD)
    group_T = logits_TE[:, :4].argmax(1)
    assert torch.equal(
        routing.expert_index_KT[0].where(routing.expert_index_KT[0] != 4, 1), group_T
    )


def test_the_reference_layer_agrees_with_the_per_token_look() -> None:
    layer = make_layer(top_k=2)
    x = tokens(30)
    torch.testing.assert_close(per_token(layer, x[0]), reference(layer, x)[0], atol=1e-5, rtol=1e-4)
