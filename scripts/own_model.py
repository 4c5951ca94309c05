"""The lifecycle governs a hand-written model: its experts are split while it trains.

    python scripts/own_model.py

A layer needs the population protocol of ``chronorun.model.population``: ``num_experts``, ``top_k``
and its per-expert tensors by name (``slot_tensors``, ``set_slot_tensors``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chronorun.config.observing import TelemetryConfig
from chronorun.governance import ControlConfig, Controller
from chronorun.lifecycle import LifecycleConfig, LifecycleCoordinator
from chronorun.model import Routing
from chronorun.telemetry import RoutingRecorder, SystemSnapshot


class MyMoE(nn.Module):
    """Any layer whose experts lie along dimension 0 of its tensors."""

    def __init__(self, layer_id: int, d_model: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.layer_id, self.top_k, self.observer = layer_id, top_k, None
        self.rows = nn.Parameter(torch.randn(num_experts, d_model))
        self.register_buffer("offset", torch.zeros(num_experts))
        self.w1 = nn.Parameter(torch.randn(num_experts, d_model, 32) / 4)
        self.w2 = nn.Parameter(torch.randn(num_experts, 32, d_model) / 6)

    @property
    def num_experts(self) -> int:
        """The experts alive now."""
        return len(self.rows)

    def slot_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that hold one expert per row."""
        return {
            "router.weight": self.rows,
            "router.logit_offset": self.offset,
            "experts.w1": self.w1,
            "experts.w2": self.w2,
        }

    def set_slot_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors of a changed population."""
        self.rows, self.offset = tensors["router.weight"], tensors["router.logit_offset"]
        self.w1, self.w2 = tensors["experts.w1"], tensors["experts.w2"]

    def forward(self, x: Tensor) -> Tensor:
        """Route each token [tokens, d_model] to its experts, and report the routing."""
        logits = x @ self.rows.t() + self.offset
        index = logits.topk(self.top_k).indices
        gates = logits.softmax(-1).gather(1, index)  # of all: a softmax over one logit is always 1
        counts = torch.bincount(index.flatten(), minlength=self.num_experts)
        y = torch.zeros_like(x)
        for e in range(self.num_experts):
            token, choice = (index == e).nonzero(as_tuple=True)
            hidden = torch.relu(x[token] @ self.w1[e])
            y = y.index_add(0, token, gates[token, choice, None] * (hidden @ self.w2[e]))
        if self.training and self.observer:
            routing = Routing(x, logits, logits.softmax(-1), index.t(), gates.t(), None, counts)
            self.observer(self.layer_id, routing.detach())
        return x + y


class MyModel(nn.Module):
    """Two MoE layers; ``moe_layers`` is what the lifecycle asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MyMoE(i, 16, num_experts=8, top_k=1) for i in range(2))

    def moe_layers(self) -> list[MyMoE]:
        """Return the layers that the lifecycle manages."""
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers."""
        for layer in self.layers:
            x = layer(x)
        return x


def main() -> None:
    """Train 300 steps and print what the lifecycle decides."""
    torch.manual_seed(0)
    model, goal = MyModel(), nn.Linear(16, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    recorder = RoutingRecorder([8, 8], 1, 20, "cpu", TelemetryConfig(), vocab_size=256)
    controller = Controller(n_layers=2, n_experts_per_layer=[8, 8], config=ControlConfig())
    lifecycle = LifecycleCoordinator(
        controller=controller,
        model=model,
        config=LifecycleConfig(
            lifecycle_eval_interval=1, lifecycle_warmup_steps=100, split_share_ratio=1.5
        ),
        optimizer=optimizer,  # its moments move with the experts
        recorder=recorder,  # its windows say which tokens an expert gets
    )

    def observe(layer_id: int, routing: Routing) -> None:
        recorder.observe(layer_id, routing)
        lifecycle.observe(layer_id, routing)

    for layer in model.moe_layers():
        layer.observer = observe
    for step in range(1, 301):
        tokens = torch.randint(256, (1, 64))
        x = torch.randn(64, 16) + 2 * (tokens.view(-1, 1) < 64)
        recorder.begin_step(tokens)
        loss = (model(x) - goal(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.end_step(step, loss)
        if step % 20 == 0:
            window = recorder.flush()
            snapshot = SystemSnapshot.from_window(window, step, loss.item(), None, "mine", "my-moe")
            decisions = controller.update(snapshot)
            for done in lifecycle.evaluate(snapshot, decisions):
                print(step, done.action, done.parent_id, done.expert_id, done.reason)


if __name__ == "__main__":
    main()
