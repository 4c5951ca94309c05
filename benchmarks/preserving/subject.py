"""One trained state that is edited: its model, probe, and the lifecycle's own population."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.run import RunConfig
from chronorun.data import TokenizedCorpus, TokenSplit, probe_batch, train_batch
from chronorun.lifecycle.coordinator import LifecycleCoordinator
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.decide.similarity import js_overlap
from chronorun.lifecycle.edit.births import clone_of, seeded
from chronorun.lifecycle.edit.receipts import Reading, receipt, take_reading
from chronorun.lifecycle.edit.saved import Edit, Newborn
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.model import GPT, MoELayer
from chronorun.model.population import LOGIT_OFFSET
from chronorun.training.checkpoints.folder import load_optimizer_tensors, optimizer_tensors
from chronorun.training.evaluate import evaluate
from chronorun.training.optimizer import build_optimizer
from chronorun.training.stepping import Stepper
from preserving.cases import Setup

CPU = torch.device("cpu")
KINDS = ("model", "optimizer")
LN2 = 0.6931471805599453
RAMP_STEPS = 60
CHECKPOINT = 20
"""Training steps between two checkpoints."""
State = dict[str, Any]


class AllTokens:
    """The probe: loss over several batches; keeps the layers' outputs of its last two calls."""

    def __init__(self, config: RunConfig, model: GPT, split: TokenSplit, batches: int) -> None:
        self.model = model
        self.batches = [
            probe_batch(
                split,
                seed=config.seed,
                edit_step=index,
                batch_size=config.lifecycle.probe_batch_size,
                context_length=config.model.context_length,
            )
            for index in range(batches)
        ]
        self.calls: list[dict[int, list[Tensor]]] = []
        for layer in model.moe_layers():
            layer.register_forward_hook(self._keep)

    def __call__(self, step: int) -> float:
        """Return nats per token; the batches are the same at every step."""
        self.calls = [*self.calls[-1:], {}]
        return evaluate(self.model, self.batches, CPU, contextlib.nullcontext())

    def _keep(self, layer: nn.Module, _inputs: Any, output: tuple[Tensor, Any]) -> None:
        assert isinstance(layer, MoELayer)
        if not layer.training:
            self.calls[-1].setdefault(layer.layer_id, []).append(output[0].flatten(0, -2))

    def worst_token(self, layer_id: int) -> float:
        """Return the largest change of a token's output between the last two calls."""
        before, after = (torch.cat(call[layer_id]) for call in self.calls)
        return largest_change(before, after)


class Subject:
    """A model in training under a coordinator that decides nothing: edits come from here."""

    def __init__(
        self,
        config: RunConfig,
        setup: Setup,
        corpus: TokenizedCorpus,
        state: State,
        **lifecycle: Any,
    ) -> None:
        self.config, self.lifecycle = config, LifecycleConfig(**lifecycle)
        self.tokens, self.setup = corpus.split("train"), setup
        generator = torch.Generator().manual_seed(config.seed)
        self.model = GPT(
            config.model,
            config.router,
            corpus.vocab_size,
            experts_per_layer=state.get("population"),
            generator=generator,
        )
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.probe = AllTokens(config, self.model, corpus.split("probe"), setup.probe_batches)
        self.coordinator = LifecycleCoordinator(
            None,
            self.model,
            self.lifecycle,
            optimizer=self.optimizer,
            probe=self.probe,
            seed=config.seed,
            warmup_steps=0,
            max_top_k=config.model.top_k,
        )
        self.population, self.registry = self.coordinator.population, self.coordinator.registry
        self.surgeon = self.population.surgeon
        self.layers = self.model.moe_layers()
        for layer in self.layers:
            layer.observer = self.coordinator.observe
        self.stepper = Stepper(config, self.model, self.optimizer, self.tokens, CPU)
        self.step = self.coordinator.ledger.last_step = state.get("step", 0)
        self.seq = 0
        if "model" in state:
            self._restore(copy.deepcopy(state))

    def _restore(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        load_optimizer_tensors(self.model, self.optimizer, state["optimizer"])
        if "coordinator" in state:
            self.coordinator.load_state_dict(state["coordinator"])
        # What the lifecycle looks at when it acts: the newest training batch.
        batch = train_batch(
            self.tokens,
            seed=self.config.seed,
            step=self.step - 1,
            batch_size=self.config.training.batch_size,
            context_length=self.config.model.context_length,
        )
        self.model.train()
        with torch.no_grad():
            self.model(torch.from_numpy(batch)[:, :-1])

    def state(self) -> State:
        """Return a copy of everything, as a checkpoint would."""
        state = {
            "step": self.step,
            "population": [layer.num_experts for layer in self.layers],
            "model": dict(self.model.state_dict()),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "coordinator": self.coordinator.state_dict(),
        }
        return copy.deepcopy(state)

    def train(self, steps: int) -> None:
        """Take training steps."""
        for _ in range(steps):
            self.coordinator.begin_step(self.step)
            self.stepper.take(self.step, lambda tokens: None)
            self.step += 1

    def reading(self, layer_id: int) -> Reading:
        """Read the probe through one layer."""
        slots = self.registry.slots(layer_id)
        return take_reading(self.probe, self.step, self.layers[layer_id], slots)

    def decision(self, c: Candidate) -> LifecycleDecision:
        """Return the record of a candidate that is carried out."""
        self.seq += 1
        verdict = Verdict(c, Status.executed, "", self.seq)
        slots = self.registry.slots(c.layer_id)
        return make_decision(verdict, self.step, "preservation", self.lifecycle, slots)

    def birth(self, c: Candidate) -> Mapping[str, Any]:
        """Stage a split, spawn or revival and let it in; returns the receipt."""
        starved_T = self.population.tap.starved(c.layer_id, None)
        self.population.carry_out(c, self.decision(c), RAMP_STEPS, starved_T)
        return self.coordinator.begin_step(self.step)[-1].receipt

    def split(self, layer_id: int, parent_id: str) -> Mapping[str, Any]:
        """Split an expert into exclusive twins."""
        child_id = self.registry.next_id(layer_id)
        return self.birth(candidate(Action.SPLIT, layer_id, child_id, parent_id=parent_id))

    def release(self, child_id: str) -> Mapping[str, Any]:
        """Let a pair compete, however much that shocks; returns the receipt."""
        late = self.lifecycle.split_release_limit
        ages = {child: late if child == child_id else 0 for child in self.registry.twins}
        (record,) = self.population.release_twins(self.step, ages)
        felt: Mapping[str, Any] = record["receipt"]
        calls = self.probe.calls
        assert self.probe(self.step) == felt["probe_loss_after"], "the trial was not the real thing"
        self.probe.calls = calls
        return felt

    def prune(self, layer_id: int, expert_id: str) -> Mapping[str, Any]:
        """Remove an expert, dead or not."""
        self.registry.transition(expert_id, ExpertState.dormant, self.step, "for the benchmark")
        c = candidate(Action.PRUNE, layer_id, expert_id)
        return self.population.carry_out(c, self.decision(c)).receipt

    def merge(self, layer_id: int, survivor_id: str, absorbed_id: str) -> Mapping[str, Any]:
        """Merge two experts."""
        shares = self.reading(layer_id).shares()
        metrics = {"share": shares[survivor_id], "partner_share": shares[absorbed_id]}
        c = candidate(Action.MERGE, layer_id, survivor_id, partner_id=absorbed_id, metrics=metrics)
        return self.population.carry_out(c, self.decision(c)).receipt

    def merge_as_run(
        self, layer_id: int, survivor_id: str, absorbed_id: str
    ) -> list[tuple[str, Mapping[str, Any], float]]:
        """Merge as a run does, where the absorbed one may fade out; returns what each step felt."""
        shares = self.reading(layer_id).shares()
        metrics = {"share": shares[survivor_id], "partner_share": shares[absorbed_id]}
        c = candidate(Action.MERGE, layer_id, survivor_id, partner_id=absorbed_id, metrics=metrics)
        done = self.population.carry_out(c, self.decision(c), RAMP_STEPS)
        token = self.probe.worst_token(layer_id)
        if done.integrated_step is not None:
            return [("at once", done.receipt, token)]
        averaged = self.coordinator.ledger.leaving[-1].parts.felt["averaged"]
        self.train(RAMP_STEPS)
        (done,) = self.coordinator.begin_step(self.step)
        removed = done.receipt, self.probe.worst_token(layer_id)
        return [("averaged", averaged, token), ("removed", *removed)]

    def alike(self, layer_id: int, one_id: str, other_id: str) -> tuple[float, float]:
        """Return what a merge asks for: cosine of the weights, overlap of the probe's tokens."""
        routing = self.reading(layer_id).routing
        assert routing is not None
        inputs = [torch.from_numpy(batch)[:, :-1] for batch in self.probe.batches]
        type_T = torch.cat([tokens.flatten() for tokens in inputs])
        place_T = torch.cat([torch.arange(x.shape[1]).repeat(x.shape[0]) for x in inputs])
        weights, masks = [], []
        for expert_id in (one_id, other_id):
            values = self.surgeon.read(expert_id).values
            weights.append(
                torch.cat([values[n].flatten().double() for n in ("experts.w1", "experts.w2")])
            )
            masks.append((routing.expert_index_KT == self.registry.slot_of(expert_id)).any(0))
        overlaps = []
        for kind_T in (type_T, place_T):
            n = int(kind_T.max()) + 1
            counts = [torch.bincount(kind_T[mask], minlength=n).double() for mask in masks]
            first, second = ((c / c.sum().clamp(min=1.0)).numpy() for c in counts)
            overlaps.append(js_overlap(first, second))
        return float(F.cosine_similarity(*weights, dim=0)), min(overlaps)

    def insert_copy(
        self, layer_id: int, parent_id: str, *, child: float, both: float = 0.0
    ) -> Mapping[str, Any]:
        """Insert a copy by hand, its logit moved by ``child``, and both by ``both`` (naive)."""
        before = self.reading(layer_id)
        parent = self.surgeon.read(parent_id)
        parent.values[LOGIT_OFFSET] += both
        self.surgeon.write(parent_id, {LOGIT_OFFSET: parent.values[LOGIT_OFFSET]})
        expert_id = self.registry.next_id(layer_id)
        made, rewarm = clone_of(parent, self.lifecycle, seeded(0, self.step, expert_id))
        made.values[LOGIT_OFFSET] += child
        slots = self.registry.slots(layer_id)
        self.registry.add(layer_id, self.step, parent_id, "naive")
        self.registry.integrate(expert_id, self.step)
        newborn = Newborn(expert_id, made, rewarm)
        self.surgeon.apply(Edit(layer_id, slots, insert=[newborn]))
        return receipt(before, self.reading(layer_id), [parent_id, expert_id])


def candidate(action: Action, layer_id: int, expert_id: str, **fields: Any) -> Candidate:
    """Return a candidate as a cycle would propose it."""
    return Candidate(action, layer_id, expert_id, "for the benchmark", 1, **fields)


def largest_change(before_TD: Tensor, after_TD: Tensor) -> float:
    """Return the largest change of a token over the RMS norm of tokens."""
    old, new = before_TD.double(), after_TD.double()
    return float((new - old).norm(dim=1).max() / old.norm(dim=1).square().mean().sqrt())


@torch.no_grad()
def slow_output(layer: MoELayer, x_TD: Tensor) -> Tensor:
    """Return the layer's output in float64, token by token: nothing depends on who sits beside.

    Gates are a softmax over the chosen logits, best choice first.
    """
    x_TD = x_TD.double()
    rows, offsets = layer.router.weight.double(), layer.router.logit_offset.double()
    logits = [(x_TD * row).sum(1) + offset for row, offset in zip(rows, offsets, strict=True)]
    logits_TE = torch.stack(logits, dim=1)
    pairs = [] if layer.twins is None else layer.twins.pairs
    for pair in pairs:
        logits_TE[:, pair.child] = -torch.inf
    chosen = logits_TE.topk(layer.top_k, dim=1)
    gate_TK, index_TK = torch.softmax(chosen.values, dim=1), chosen.indices.clone()
    for pair in pairs:
        side_T = (x_TD * pair.direction_D.double()).sum(1) > pair.threshold.double()
        index_TK[(index_TK == pair.parent) & side_T[:, None]] = pair.child
    w1, w2 = layer.experts.w1.double().unbind(0), layer.experts.w2.double().unbind(0)
    out = []
    for x_D, gates, experts in zip(x_TD, gate_TK, index_TK.tolist(), strict=True):
        y_D = torch.zeros_like(x_D)
        for gate, e in zip(gates, experts, strict=True):
            y_D = y_D + gate * (F.gelu(x_D @ w1[e]) @ w2[e])
        out.append(y_D)
    return torch.stack(out)
