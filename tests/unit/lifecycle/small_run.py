"""A small model to edit: two MoE layers, fused AdamW, batches that are functions of the step."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.training import OptimizerConfig
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.edit.archive import Archive
from chronorun.lifecycle.edit.moments import Moments, read_moments
from chronorun.lifecycle.edit.population import Population
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.observe.tap import InputTap
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.lifecycle.record.ledger import Ledger
from chronorun.model import GPT, MoELayer, read_expert
from chronorun.model.shapes import Routing
from chronorun.training.optimizer import build_optimizer

VOCAB, CONTEXT, WIDTH = 32, 16, 16


def batch(number: int, size: int = 4) -> Tensor:
    """Return [size, CONTEXT + 1] tokens in which the next one can be learned."""
    generator = torch.Generator().manual_seed(number)
    start_B = torch.randint(VOCAB, (size, 1), generator=generator)
    stride_B = torch.randint(1, 4, (size, 1), generator=generator)
    return (start_B + stride_B * torch.arange(CONTEXT + 1)) % VOCAB


def make_model(
    population: list[int] | None = None,
    *,
    top_k: int = 2,
    router: RouterConfig | None = None,
    seed: int = 0,
) -> GPT:
    population = population or [4, 4]
    config = ModelConfig(
        n_layers=2,
        d_model=WIDTH,
        n_heads=2,
        context_length=CONTEXT,
        d_ff=2 * WIDTH,
        num_experts=max(population[0], top_k),
        top_k=top_k,
    )
    generator = torch.Generator().manual_seed(seed)
    return GPT(
        config,
        router or RouterConfig(),
        VOCAB,
        experts_per_layer=population,
        generator=generator,
    )


class SmallRun:
    """Model, optimizer and population, joined as the coordinator joins them, without policies."""

    def __init__(
        self,
        population: list[int] | None = None,
        *,
        top_k: int = 2,
        router: RouterConfig | None = None,
        config: LifecycleConfig | None = None,
        archive: Archive | None = None,
        probe: bool = True,
    ) -> None:
        self.model = make_model(population, top_k=top_k, router=router)
        self.router = router or RouterConfig()
        self.config = config or LifecycleConfig()
        self.optimizer = build_optimizer(self.model, OptimizerConfig(lr=1e-2))
        self.layers: list[MoELayer] = self.model.moe_layers()
        n_experts = [layer.num_experts for layer in self.layers]
        self.registry = Registry(n_experts)
        self.tap = InputTap(n_experts, None)
        guard = UpdateGuard(
            dict(enumerate(self.layers)), self.registry.slot_of, self.config.rewarm_steps
        )
        guard.attach(self.optimizer)
        self.optimizer.register_step_post_hook(lambda *_: self.tap.end_step())
        self.surgeon = Surgeon(self.layers, self.registry, guard)
        self.surgeon.optimizer = self.optimizer
        self.ledger = Ledger(self.registry, self.config)
        self.population = Population(
            self.ledger,
            self.surgeon,
            self.tap,
            archive or Archive(),
            self.config,
            probe=self.probe if probe else None,
        )
        for layer in self.layers:
            layer.observer = self._observe
            layer.gate_observer = self.tap.observe_gates
        self.step = 0
        self._seq = itertools.count()

    def _observe(self, layer_id: int, routing: Routing) -> None:
        self.tap.observe(layer_id, routing)
        self.surgeon.guard.count_tokens(layer_id, routing.tokens_per_expert_E)

    @torch.no_grad()
    def probe(self, step: int) -> float:
        self.model.eval()
        tokens = batch(10_000 + step, 8)
        loss = self.model(tokens[:, :-1], tokens[:, 1:]).loss
        self.model.train()
        assert loss is not None
        return float(loss)

    @torch.no_grad()
    def logits(self) -> Tensor:
        self.model.eval()
        out = self.model(batch(77)[:, :-1]).logits
        self.model.train()
        assert out is not None
        return out

    def train(self, steps: int = 1) -> list[float]:
        losses = []
        for _ in range(steps):
            self.population.set_ramps(self.step)
            tokens = batch(self.step)
            out = self.model(tokens[:, :-1], tokens[:, 1:])
            (out.loss + 0.01 * out.load_balancing_loss + 0.001 * out.router_z_loss).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            for layer in self.layers:
                layer.router.update_selection_bias(layer.num_groups)
            self.step += 1
            losses.append(float(out.loss.detach()))
        return losses

    # ---- edits -------------------------------------------------------------------------------

    def decision(self, candidate: Candidate) -> LifecycleDecision:
        verdict = Verdict(candidate, Status.executed, seq=next(self._seq))
        slots = self.registry.slots(candidate.layer_id)
        return make_decision(verdict, self.step, "run", self.config, slots)

    def split(self, parent_id: str) -> LifecycleDecision:
        layer_id = self.registry[parent_id].layer_id
        new = self.registry.next_id(layer_id)
        return self.birth(Action.SPLIT, layer_id, new, parent_id=parent_id)

    def spawn(
        self, layer_id: int, cluster: list[str], *, cloned: bool = True, ramp: int = 6
    ) -> LifecycleDecision:
        return self.birth(
            Action.SPAWN,
            layer_id,
            self.registry.next_id(layer_id),
            parent_id=cluster[0] if cloned else None,
            cluster=tuple(cluster),
            ramp=ramp,
        )

    def birth(
        self, action: Action, layer_id: int, expert_id: str, *, ramp: int = 6, **named: Any
    ) -> LifecycleDecision:
        c = Candidate(action, layer_id, expert_id, "test", 1, **named)
        starved_T = self.tap.starved(layer_id, None)
        self.population.carry_out(c, self.decision(c), ramp, starved_T)
        (done,) = self.population.begin_step(self.step)
        return done

    def prune(self, expert_id: str) -> LifecycleDecision:
        c = Candidate(Action.PRUNE, self.registry[expert_id].layer_id, expert_id, "dormant", 1)
        return self.population.carry_out(c, self.decision(c))

    def merge(
        self, survivor: str, absorbed: str, shares: tuple[float, float] = (0.3, 0.2)
    ) -> LifecycleDecision:
        c = Candidate(
            Action.MERGE,
            self.registry[survivor].layer_id,
            survivor,
            "converged",
            1,
            partner_id=absorbed,
            metrics={"share": shares[0], "partner_share": shares[1]},
        )
        return self.population.carry_out(c, self.decision(c))

    def roll_back(self, seq: int) -> LifecycleDecision:
        undo = self.ledger.undo[seq]
        name = (undo.born or undo.gone)[0]
        c = Candidate(Action.ROLLBACK, undo.layer_id, name, "harm", 1, undoes=seq)
        return self.population.carry_out(c, self.decision(c))

    # ---- looks -------------------------------------------------------------------------------

    def everything(self, expert_id: str) -> dict[str, Tensor]:
        """Return all that one live expert is, moments included, under flat names."""
        record = self.registry[expert_id]
        layer, slot = self.layers[record.layer_id], self.registry.slot_of(expert_id)
        return read_expert(layer, slot) | flat(read_moments(layer, self.optimizer, slot))

    def all_live(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: self.everything(name)
            for layer_id in self.registry.layers()
            for name in self.registry.slots(layer_id)
        }


def flat(moments: Moments) -> dict[str, Tensor]:
    return {f"{n}|{e}": value for n, entries in moments.items() for e, value in entries.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
