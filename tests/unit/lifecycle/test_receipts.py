"""What an edit did, as the probe saw it, against a few lines each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from unit.lifecycle.small_run import SmallRun

from chronorun.config.model import GateOrder, RouterConfig
from chronorun.lifecycle.edit.receipts import Reading, receipt, take_reading
from chronorun.model.population import rebuild
from chronorun.model.shapes import Routing


def reading(
    run: SmallRun, layer_id: int = 0, names: list[str] | None = None, step: int = 0
) -> Reading:
    names = run.registry.slots(layer_id) if names is None else names
    return take_reading(run.probe, step, run.layers[layer_id], names)


def trained(**options: object) -> SmallRun:
    run = SmallRun(**options)  # type: ignore[arg-type]
    run.train(10)
    return run


def test_a_reading_is_what_passes_through_the_layer_and_leaves_no_trace() -> None:
    run = trained()
    before, rng = run.all_live(), torch.get_rng_state()
    counted = run.tap.routing[0]
    one, other = reading(run), reading(run)
    assert one.loss == run.probe(0)
    assert one.y_TD is not None
    assert other.y_TD is not None
    assert torch.equal(one.y_TD, other.y_TD)
    assert one.y_TD.shape == (8 * 16, 16)
    assert run.layers[0].spy is None
    assert run.tap.routing[0] is counted
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(
        torch.equal(v, run.everything(n)[k]) for n, s in before.items() for k, v in s.items()
    )


def test_nothing_done_is_nothing_felt() -> None:
    run = trained()
    felt = receipt(reading(run), reading(run), ["L0_E1"])
    share = felt.pop("probe_share")["L0_E1"]
    assert share[0] == share[1] > 0.0
    loss = felt.pop("probe_loss_before")
    assert felt == {
        "probe_loss_after": loss,
        "probe_shock": 0.0,
        "output_change": 0.0,
        "gate_kl": 0.0,
    }


def test_the_figures_are_those_of_their_definitions() -> None:
    run = trained()
    before = reading(run)
    with torch.no_grad():
        run.layers[0].experts.w2[2] *= 1.5
        run.layers[0].router.weight[1] += 0.3 * torch.sin(torch.arange(16.0))
    rebuild(run.layers[0], [3, 0, 1, 2])
    names = ["L0_E3", "L0_E0", "L0_E1", "L0_E2"]
    after = reading(run, names=names)
    felt = receipt(before, after, ["L0_E1", "L0_E1", "L0_E9"])
    assert felt["probe_shock"] == (after.loss - before.loss) / before.loss
    assert before.y_TD is not None
    assert after.y_TD is not None
    change, size = (after.y_TD - before.y_TD).square().mean(), before.y_TD.square().mean()
    assert felt["output_change"] == pytest.approx(math.sqrt(change / size), rel=1e-4)
    assert before.routing is not None
    assert after.routing is not None
    p_TE = before.routing.probs_TE.double()
    q_TE = after.routing.probs_TE.double()[:, [1, 2, 3, 0]]
    kl = sum(
        float(p * math.log(p / q)) for p, q in zip(p_TE.flatten(), q_TE.flatten(), strict=True)
    )
    assert felt["gate_kl"] == pytest.approx(kl / len(p_TE), rel=1e-4)
    assert felt["gate_kl"] > 0.0
    shares = [
        float((r.expert_index_KT == slot).double().mean())
        for r, slot in ((before.routing, 1), (after.routing, 2))
    ]
    assert felt["probe_share"] == {
        "L0_E1": [pytest.approx(s) for s in shares],
        "L0_E9": [None, None],
    }


def test_an_expert_that_came_or_left_has_a_share_on_one_side_only() -> None:
    run = trained()
    gone = run.prune("L0_E3").receipt["probe_share"]["L0_E3"]
    assert gone[0] is not None
    assert gone[1] is None
    done = run.spawn(0, ["L0_E0"])
    come = done.receipt["probe_share"]
    assert come[done.expert_id][0] is None
    assert come["L0_E0"][0] is not None


@pytest.mark.parametrize("top_k", [1, 2])
def test_pruning_an_expert_that_no_token_selects_changes_no_bit(top_k: int) -> None:
    run = SmallRun([5, 4], top_k=top_k)
    run.layers[0].router.logit_offset[2] = -40.0
    run.train(10)
    logits = run.logits()
    done = run.prune("L0_E2")
    assert done.receipt["probe_share"] == {"L0_E2": [0.0, None]}
    assert done.receipt["output_change"] == 0.0
    assert done.receipt["probe_shock"] == 0.0
    assert torch.equal(run.logits(), logits)


def test_with_full_softmax_gates_such_a_prune_is_felt_little() -> None:
    router = RouterConfig(gate_order=GateOrder.softmax_then_topk)
    run = SmallRun([5, 4], top_k=1, router=router)
    run.layers[0].router.logit_offset[2] = -8.0
    run.train(10)
    done = run.prune("L0_E2")
    assert done.receipt["probe_share"] == {"L0_E2": [0.0, None]}
    assert 0.0 < done.receipt["output_change"] <= 1e-3


def test_bytes_fall_by_exactly_one_expert() -> None:
    run = trained()
    before = run.optimizer.state
    per_expert = 4 * 2 * (16 + 2 * 16 * 32)
    assert before
    done = run.prune("L0_E3")
    sizes = done.receipt["optimizer_bytes"]
    assert sizes[0] - sizes[1] == per_expert
    layer = done.receipt["layer_bytes"]
    # Weights, row, offset and bias in float32, and the load in int64.
    assert layer[0] - layer[1] == 4 * (16 + 2 * 16 * 32 + 2) + 8


def test_a_child_without_a_logit_of_its_own_makes_no_divergence() -> None:
    run = trained()
    child = run.split("L0_E1").expert_id
    before = reading(run)
    (record,) = run.population.release_twins(run.step, {child: 99})
    assert before.routing is not None
    assert before.routing.logits_TE[:, 4].isneginf().all()
    assert math.isfinite(record["receipt"]["gate_kl"])
    assert record["receipt"]["probe_loss_before"] == pytest.approx(before.loss, rel=0.2)


def test_several_forwards_of_one_probe_are_joined() -> None:
    run = trained()

    def twice(step: int) -> float:
        return (run.probe(step) + run.probe(step + 1)) / 2

    names = run.registry.slots(0)
    joined = take_reading(twice, 0, run.layers[0], names)
    parts = [reading(run, step=step) for step in (0, 1)]
    assert joined.loss == sum(part.loss for part in parts) / 2
    assert joined.routing is not None
    assert joined.y_TD is not None
    assert torch.equal(joined.y_TD, torch.cat([p.y_TD for p in parts if p.y_TD is not None]))
    routings = [p.routing for p in parts if p.routing is not None]
    assert torch.equal(
        joined.routing.expert_index_KT, torch.cat([r.expert_index_KT for r in routings], dim=1)
    )
    assert int(joined.routing.tokens_per_expert_E.sum()) == 2 * 8 * 16 * 2
    for name, share in joined.shares().items():
        assert share == pytest.approx(sum(p.shares()[name] for p in parts) / 2)


def test_a_layer_without_a_spy_tells_its_loss_only() -> None:
    run = trained()

    class Mute:
        top_k = 1
        num_experts = 4

    silent = take_reading(run.probe, 0, Mute(), ["a", "b"])  # type: ignore[arg-type]
    felt = receipt(silent, replace(silent, loss=silent.loss * 1.1), ["a"])
    assert felt["probe_shock"] == pytest.approx(0.1)
    assert felt["output_change"] is None
    assert felt["gate_kl"] is None
    assert felt["probe_share"] == {"a": [None, None]}


def test_a_spy_does_not_outlive_a_probe_that_fails() -> None:
    run = trained()

    def fails(step: int) -> float:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match=r"^no$"):
        take_reading(fails, 0, run.layers[0], [])
    assert run.layers[0].spy is None


def test_shares_count_assignments() -> None:
    index_KT = torch.tensor([[0, 0, 2], [1, 2, 0]])
    empty = torch.zeros(3, 3)
    routing = Routing(empty, empty, empty, index_KT, torch.ones(2, 3), None, torch.zeros(3))
    shares = Reading(1.0, ["a", "b", "c"], None, routing).shares()
    assert shares == {"a": 3 / 6, "b": 1 / 6, "c": 2 / 6}
