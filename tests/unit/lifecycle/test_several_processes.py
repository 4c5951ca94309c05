"""Two processes with half a batch each know together what one with the whole batch knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.observing import TelemetryConfig
from chronorun.core.launch import Place
from chronorun.core.processes import ALONE, Processes
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.model import Routing
from chronorun.model.moe import MoELayer
from chronorun.telemetry import RoutingRecorder

TOKENS_BS = torch.arange(24).view(4, 6) % 7


@dataclass(frozen=True)
class Half(Processes):
    """One of two processes that are played one after the other: a rehearsal notes what each says.

    ``theirs`` is what the other one said in it.
    """

    theirs: list[Tensor] = field(default_factory=list)
    said: list[Tensor] = field(default_factory=list)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        other = self.theirs[len(self.said)] if self.theirs else tensor
        self.said.append(tensor.detach().clone())
        return [tensor, other] if self.rank == 0 else [other, tensor]

    def sum(self, tensor: Tensor) -> Tensor:
        return torch.stack([one.detach() for one in self.gather(tensor)]).sum(0)


class Observed:
    """One layer, a recorder and a tap, after one training step."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.saved: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        torch.manual_seed(0)
        model = ModelConfig(d_model=16, n_heads=2, d_ff=8, num_experts=4, top_k=2)
        self.layer = MoELayer(0, model, RouterConfig(), 4)
        for parameter in self.layer.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.5)
        telemetry = TelemetryConfig()
        self.recorder = RoutingRecorder([4], 2, 3, "cpu", telemetry, 7, processes)
        self.tap = InputTap([4], self.recorder.token_types_T, processes)
        self.layer.observer, self.layer.gate_observer = self.observe, self.tap.observe_gates
        if processes.world > 1:
            self.layer.sum_counts = processes.sum
        self.step()

    def observe(self, layer_id: int, routing: Routing) -> None:
        self.recorder.observe(layer_id, routing)
        self.tap.observe(layer_id, routing)

    def step(self) -> None:
        table = torch.randn(7, 6, 16, generator=torch.Generator().manual_seed(1))
        rows = slice(self.processes.rank, None, self.processes.world)
        tokens = TOKENS_BS[rows]
        x_BSD = table[tokens, torch.arange(6)] + torch.arange(4.0)[rows, None, None]
        self.recorder.begin_step(tokens)
        y, losses = self.layer(x_BSD)
        self.balancing_loss = losses.load_balancing_loss.item()
        (y.square().mean() + losses.load_balancing_loss).backward()
        self.tap.end_step()
        self.recorder.end_step(1, None)


def halves(end: str) -> list[Observed]:
    """Play both processes twice; ``end`` names what they do at the end of the step."""
    said: list[list[Tensor]] = [[], []]
    for _ in range(2):
        parts = [Half(Place(rank, 2), theirs=said[1 - rank]) for rank in range(2)]
        both = [Observed(part) for part in parts]
        for one in both:
            if end == "checkpoint":
                one.tap.gather(one.recorder.sequences)
                one.recorder.flush()
            else:
                one.saved = (one.recorder.state_dict(), one.tap.state_dict())
        said = [list(part.said) for part in parts]
    return both


def test_a_window_and_the_newest_tokens_are_those_of_the_whole_batch() -> None:
    one = Observed(ALONE)
    expected = one.recorder.flush()
    for part in halves("checkpoint"):
        window = part.recorder.last_window
        assert window is not None
        assert window.tokens == expected.tokens == [24]
        mine, whole = window.layers[0], expected.layers[0]
        for name in ("counts", "assignments", "token_types", "positions", "co_selection"):
            assert (getattr(mine, name) == getattr(whole, name)).all(), name
        assert mine.top_k == whole.top_k == 2
        assert mine.overflow_fraction == whole.overflow_fraction
        assert mine.prob_sums == pytest.approx(whole.prob_sums, rel=1e-6)
        assert mine.token_entropy_nats == pytest.approx(whole.token_entropy_nats, rel=1e-6)
        routing, all_of_it = part.tap.routing[0], one.tap.routing[0]
        assert torch.allclose(routing.x_TD, all_of_it.x_TD, atol=1e-5)
        assert torch.allclose(routing.gate_KT, all_of_it.gate_KT, atol=1e-5)
        assert torch.equal(routing.expert_index_KT, all_of_it.expert_index_KT)
        assert torch.equal(routing.tokens_per_expert_E, all_of_it.tokens_per_expert_E)
        assert torch.equal(part.tap.type_T[0], one.tap.type_T[0])
        assert part.tap.contributions(0) == pytest.approx(one.tap.contributions(0), abs=1e-5)
        harms = part.tap.token_harms(0, [40] * 4, 24.0), one.tap.token_harms(0, [40] * 4, 24.0)
        for mine_of, whole_of in zip(*harms, strict=True):  # type: ignore[arg-type]
            assert mine_of == pytest.approx(whole_of, abs=1e-5)


def test_the_mean_of_the_parts_balancing_losses_is_the_batchs() -> None:
    parts = halves("checkpoint")
    mean = sum(part.balancing_loss for part in parts) / 2
    assert mean == pytest.approx(Observed(ALONE).balancing_loss, rel=1e-6)


def test_an_unfinished_window_is_saved_whole_and_handed_to_the_first() -> None:
    one = Observed(ALONE)
    whole, sums = one.recorder.state_dict(), one.tap.state_dict()
    for part in halves("save"):
        saved, tapped = part.saved
        assert saved["tokens"] == whole["tokens"]
        layer, expected = saved["layers"][0], whole["layers"][0]
        assert layer["assignments"] == expected["assignments"]
        for name in ("counts", "dropped", "histogram"):
            assert torch.equal(layer[name], expected[name]), name
        assert torch.allclose(tapped["sums"]["0"].sum(0), sums["sums"]["0"], atol=1e-5)
        part.tap.load_state_dict(tapped)
        assert torch.equal(part.tap._sums[0], tapped["sums"]["0"][part.processes.rank])
        part.recorder.load_state_dict(whole)
        part.tap.load_state_dict(sums)
        is_first = part.processes.is_first
        held = part.recorder._layers[0].counts_SE
        assert torch.equal(held, expected["counts"] * is_first)
        assert bool(part.tap._sums[0].any()) is is_first
