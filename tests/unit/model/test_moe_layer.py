"""The MoE layer equals a plain per-token reference, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from unit.model.moe_reference import assert_same_values_and_gradients, make_layer, tokens

from chronorun.config.model import GateOrder, RouterConfig
from chronorun.model import MoELayer, Routing
from chronorun.model.experts import count_assignments, sort_by_expert

ORDERS = list(GateOrder)


def push(layer: MoELayer, offsets: dict[int, float]) -> None:
    for expert, offset in offsets.items():
        layer.router.logit_offset[expert] = offset


def counts(layer: MoELayer, x_BSD: Tensor) -> list[int]:
    return layer.route(x_BSD.flatten(0, 1))[0].tokens_per_expert_E.tolist()


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_matches_the_reference_under_uneven_load(top_k: int, order: GateOrder) -> None:
    layer = make_layer(top_k=top_k, router=RouterConfig(gate_order=order))
    x = tokens(37)
    push(layer, {1: 1.5})
    assert len(set(counts(layer, x))) > 1
    assert_same_values_and_gradients(layer, x)


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_matches_the_reference_with_empty_experts(top_k: int, order: GateOrder) -> None:
    layer = make_layer(top_k=top_k, router=RouterConfig(gate_order=order))
    x = tokens(20)
    push(layer, {0: -100.0, 3: -100.0})
    load = counts(layer, x)
    assert load[0] == load[3] == 0
    assert_same_values_and_gradients(layer, x)


@pytest.mark.parametrize("order", ORDERS)
def test_matches_the_reference_when_one_expert_takes_all(order: GateOrder) -> None:
    layer = make_layer(top_k=1, router=RouterConfig(gate_order=order))
    x = tokens(20)
    push(layer, {2: 50.0})
    assert counts(layer, x) == [0, 0, 20, 0, 0]
    assert_same_values_and_gradients(layer, x)


def test_matches_the_reference_with_a_single_expert() -> None:
    layer = make_layer(num_experts=1, top_k=1)
    assert_same_values_and_gradients(layer, tokens(9))


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 24),
    num_experts=st.integers(1, 20),
    top_k=st.integers(1, 3),
    d_ff=st.sampled_from([2, 6, 8]),
    order=st.sampled_from(ORDERS),
    loss_free=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_matches_the_reference_for_any_shape(
    T: int,
    num_experts: int,
    top_k: int,
    d_ff: int,
    order: GateOrder,
    loss_free: bool,
    seed: int,
) -> None:
    layer = make_layer(
        num_experts=num_experts,
        top_k=min(top_k, num_experts),
        d_ff=d_ff,
        seed=seed,
        router=RouterConfig(gate_order=order, loss_free=loss_free),
    )
    assert_same_values_and_gradients(layer, tokens(T, seed=seed))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_drops_beyond_capacity_and_serves_first_choices_first(top_k: int) -> None:
    layer = make_layer(top_k=top_k, router=RouterConfig(capacity_factor=0.75))
    x = tokens(20)
    push(layer, {1: 1.0})
    capacity = 3 * top_k  # 0.75 * 20 tokens * top_k / 5 experts
    routing = layer.route(x.flatten(0, 1))[0]
    assert routing.kept_KT is not None
    assert not routing.kept_KT.all()
    taken = count_kept(routing)
    assert taken == [min(c, capacity) for c in routing.tokens_per_expert_E.tolist()]
    assert_same_values_and_gradients(layer, x, capacity)


def count_kept(routing: Routing) -> list[int]:
    assert routing.kept_KT is not None
    kept = routing.expert_index_KT[routing.kept_KT]
    return count_assignments(kept, routing.probs_TE.shape[1]).tolist()


def test_a_dropped_assignment_has_gate_zero() -> None:
    layer = make_layer(router=RouterConfig(capacity_factor=0.5))
    routing = layer.route(tokens(30).flatten(0, 1))[0]
    assert routing.kept_KT is not None
    assert torch.equal(routing.gate_KT > 0, routing.kept_KT)


def test_a_generous_capacity_drops_nothing_and_changes_nothing() -> None:
    free, capped = make_layer(), make_layer(router=RouterConfig(capacity_factor=100.0))
    x = tokens(16)
    assert torch.equal(free(x)[0], capped(x)[0])


def test_gates_over_the_chosen_sum_to_one() -> None:
    layer = make_layer(top_k=3)
    gate_KT = layer.route(tokens(16).flatten(0, 1))[0].gate_KT
    torch.testing.assert_close(gate_KT.sum(0), torch.ones(16))


def test_first_choice_comes_first() -> None:
    routing = make_layer(top_k=3).route(tokens(16).flatten(0, 1))[0]
    assert (routing.gate_KT.diff(dim=0) <= 0).all()
    assert torch.equal(routing.expert_index_KT[0], routing.logits_TE.argmax(-1))


def test_leading_dimensions_do_not_matter() -> None:
    layer = make_layer()
    x = tokens(12).detach()
    assert torch.equal(layer(x.view(3, 4, 8))[0].flatten(0, 1), layer(x)[0][0])


def test_sorting_is_stable_and_invertible() -> None:
    index_KT = torch.tensor([[1, 0, 1], [0, 1, 2]])
    order_N, inverse_N = sort_by_expert(index_KT)
    assert order_N.tolist() == [1, 3, 0, 2, 4, 5]
    assert torch.equal(order_N[inverse_N], torch.arange(6))


@pytest.mark.parametrize("load", ["uneven", "empty", "one takes all"])
def test_grouped_path_equals_segment_path(load: str) -> None:
    layer = make_layer(top_k=1 if load == "one takes all" else 2)
    push(layer, {"uneven": {1: 1.0}, "empty": {0: -99.0, 4: -99.0}}.get(load, {2: 50.0}))
    x_TD = tokens(24).flatten(0, 1)
    routing, order_N, _ = layer.route(x_TD)
    x_ND = x_TD.detach()[order_N % 24].requires_grad_()
    bank, sizes = layer.experts, routing.tokens_per_expert_E
    wanted = [x_ND, bank.w1, bank.w2]
    one, other = bank._segments(x_ND, sizes), bank._grouped(x_ND, sizes)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(y.square().sum(), wanted) for y in (one, other)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_identity_lens_is_bit_identical_to_none() -> None:
    layer = make_layer()
    x = tokens(16)
    without = layer(x)[0]
    layer.lens = lambda x_TD: x_TD
    assert torch.equal(layer(x)[0], without)


def test_a_lens_moves_the_routers_input_and_nothing_else() -> None:
    chosen_alone = RouterConfig(gate_order=GateOrder.topk_then_softmax)
    layer = make_layer(top_k=1, router=chosen_alone)
    x = tokens(16)
    flat = x.flatten(0, 1)
    layer.lens = lambda x_TD: -x_TD
    routing = layer.route(flat)[0]
    assert torch.equal(routing.x_TD, -flat)
    # Over one chosen expert the gate is 1: the output is that expert's, of the unwarped token.
    expert = int(routing.expert_index_KT[0, 0])
    hidden = torch.nn.functional.gelu(flat[0] @ layer.experts.w1[expert])
    torch.testing.assert_close(layer(x)[0][0, 0], hidden @ layer.experts.w2[expert])


def test_routing_override_and_output_hook_are_applied() -> None:
    layer = make_layer(top_k=1)
    x = tokens(6)
    layer.routing_override = lambda logits_TE: torch.where(
        torch.arange(5) == 3, logits_TE + 100.0, logits_TE
    )
    seen: list[Tensor] = []

    def silence(y_ND: Tensor, expert_N: Tensor) -> Tensor:
        seen.append(expert_N)
        return y_ND * 0.0

    layer.output_hook = silence
    assert layer(x)[0].abs().max() == 0.0
    assert seen[0].tolist() == [3] * 6
