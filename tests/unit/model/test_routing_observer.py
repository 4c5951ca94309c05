"""The observer sees training forwards, cut from the graph, and counts what was dispatched."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from unit.model.moe_reference import make_layer, tokens

from chronorun.config.model import RouterConfig
from chronorun.model import MoELayer, Routing


def observe(layer: MoELayer) -> list[tuple[int, Routing]]:
    seen: list[tuple[int, Routing]] = []
    layer.observer = lambda layer_id, routing: seen.append((layer_id, routing))
    return seen


def test_observer_is_called_in_training_only() -> None:
    layer = make_layer()
    seen = observe(layer)
    layer.eval()
    layer(tokens(8))
    assert seen == []
    layer.train()
    layer(tokens(8))
    assert [layer_id for layer_id, _ in seen] == [0]


def test_observer_gets_no_part_of_the_graph() -> None:
    layer = make_layer(router=RouterConfig(capacity_factor=1.0))
    seen = observe(layer)
    layer(tokens(8))
    routing = seen[0][1]
    fields = [getattr(routing, f.name) for f in dataclasses.fields(routing)]
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in fields)


def test_observer_gets_the_documented_shapes() -> None:
    layer = make_layer(top_k=3)
    seen = observe(layer)
    layer(tokens(8))
    routing = seen[0][1]
    assert routing.x_TD.shape == (8, 8)
    assert routing.logits_TE.shape == routing.probs_TE.shape == (8, 5)
    assert routing.expert_index_KT.shape == routing.gate_KT.shape == (3, 8)
    assert routing.kept_KT is None
    assert routing.tokens_per_expert_E.sum() == 24


def test_counts_are_those_dispatched_after_drops() -> None:
    layer = make_layer(router=RouterConfig(capacity_factor=0.5))
    seen = observe(layer)
    layer(tokens(30))
    routing = seen[0][1]
    assert routing.kept_KT is not None
    assert routing.tokens_per_expert_E.max() <= 6  # 0.5 * 30 tokens * 2 / 5 experts
    assert routing.tokens_per_expert_E.sum() == routing.kept_KT.sum() < 60


def test_observing_changes_no_bit_of_the_output() -> None:
    layer = make_layer()
    without = layer(tokens(8))[0]
    observe(layer)
    assert torch.equal(layer(tokens(8))[0], without)
