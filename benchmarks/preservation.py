"""Measure how much a structural edit is felt by a trained model, and the naive ways beside it.

    python benchmarks/preservation.py [--full] [--data stdlib|synthetic] [--seeds 0 1 2]
        [--top-k 1 2] [--work DIR] [--quick] [--json FILE]

It trains nano (with ``--full`` tiny as well) half-way through its schedule, at top-1 and top-2 and
from several seeds, and applies each edit to that state: through the lifecycle's own population and
surgeon, in several layers, to a busy expert and to a middling one. What is felt is read off the
lifecycle's receipts, over all tokens of a probe that training never saw. ``--work`` keeps the
trained states for the next call. Exit code 0: every "must" holds, 1: one is missed.

Columns: ``median`` and ``worst`` are relative changes of the probe loss over the cases (the median
of their sizes; the largest, with its sign); ``output`` is the RMS change of the layer's output over
its RMS, ``token`` the largest change of one token's output over the RMS norm of a token's, ``KL``
the gates' in nats a token (medians; ``token``: the largest). A "must" bounds the largest rise of
the loss; where it is 0 nothing may move, ``output`` and ``token`` neither. A star marks pairs that
the lifecycle would not merge: their weights' cosine or their tokens' overlap is below its
thresholds. "as run", "averaged" and "removed" are what a run does: twins are released once that
shocks little, and of two experts that tokens choose together one fades out.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import platform
import re
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chronorun.config.compose import compose_run
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.run import RunConfig
from chronorun.data import TokenizedCorpus, TokenSplit, load_corpus, probe_batch, train_batch
from chronorun.lifecycle.coordinator import LifecycleCoordinator
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.decide.similarity import cluster_of, js_overlap
from chronorun.lifecycle.edit.alignment import permute_hidden
from chronorun.lifecycle.edit.births import clone_of, merged, seeded
from chronorun.lifecycle.edit.receipts import Reading, receipt, take_reading
from chronorun.lifecycle.edit.saved import Edit, Newborn
from chronorun.lifecycle.edit.trial import trial
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision
from chronorun.model import GPT, MoELayer
from chronorun.model.population import LOGIT_OFFSET
from chronorun.training.checkpoints.folder import load_optimizer_tensors, optimizer_tensors
from chronorun.training.evaluate import evaluate
from chronorun.training.optimizer import build_optimizer
from chronorun.training.stepping import Stepper

CPU = torch.device("cpu")
KINDS = ("model", "optimizer")
LN2 = 0.6931471805599453
RAMP_STEPS = 60
CHECKPOINT = 20
"""Training steps between two checkpoints."""
EXACT, FAST, RELEASE, SMALL = 0.0, 1e-6, 2e-3, 1e-3
DELTAS = (0.02, 0.05, 0.1)
RAMPS = (-5.0, -2.0, 0.0)
BY_HAND = tuple(0.1 * tenths for tenths in range(-3, 14))
INITS = {"clone_and_perturb": "clone", "mean_cluster": "mean", "random": "random"}
OFFSETS = {"match": "match", "zero": "zero", "ln2": "+ ln 2"}
STAR = " *"
State = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """How long to train, before an edit and between two, and what to measure on."""

    preset: str
    data: str
    base_steps: int = 300
    short: int = 20
    long: int = 60
    batch_size: int = 16
    probe_batches: int = 16
    layers: tuple[int, ...] = (0, 1)
    targets: int = 2


SETUPS = {
    "nano": Setup("nano", "stdlib"),
    "tiny": Setup("tiny", "stdlib", probe_batches=8, layers=(0, 2, 3)),
    "quick": Setup("nano", "synthetic", 30, 2, 4, 4, 2, targets=1),
}


@dataclass(frozen=True)
class Case:
    """One edit of one expert. ``shock`` is None where only the layer's output was compared."""

    edit: str
    top_k: int
    seed: int
    layer_id: int
    expert_id: str
    shock: float | None
    output: float
    token: float
    gate_kl: float | None
    share: float
    must: float | None
    cosine: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class Row:
    """All cases of one edit at one top-k."""

    edit: str
    top_k: int
    cases: int
    median: float | None
    worst: float | None
    output: float
    token: float
    gate_kl: float | None
    must: float | None
    holds: bool


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


def is_converged(cosine: float, overlap: float) -> bool:
    """Say whether the lifecycle would call two experts converged, by its default thresholds."""
    c = LifecycleConfig()
    return cosine > c.merge_similarity_threshold and overlap > c.merge_overlap_threshold


def _largest(before: Reading, after: Reading) -> float:
    assert before.y_TD is not None
    assert after.y_TD is not None
    return largest_change(before.y_TD, after.y_TD)


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


class Bench:
    """All edits on one trained state."""

    def __init__(
        self, setup: Setup, top_k: int, seed: int, work: Path, corpus: TokenizedCorpus | None
    ) -> None:
        self.setup, self.top_k, self.seed = setup, top_k, seed
        self.config, _ = compose_run(
            [
                f"data={setup.data}",
                f"model={setup.preset}",
                f"model.top_k={top_k}",
                f"seed={seed}",
                f"training.max_steps={2 * setup.base_steps}",
                f"training.batch_size={setup.batch_size}",
                "training.device=cpu",
                "training.precision=fp32",
                "run_id=preservation",
            ]
        )
        least = self.config.model.context_length + 1
        self.corpus = corpus or load_corpus(
            self.config.data, self.config.tokenizer, min_tokens=least
        )
        self.cases: list[Case] = []
        self.base = self._base(work)
        subject = self.fresh()
        self.loss = subject.probe(subject.step)
        self.shares = {i: subject.reading(i).shares() for i in setup.layers}
        self.targets = {i: self._targets(self.shares[i]) for i in setup.layers}

    def _base(self, work: Path) -> State:
        s = self.setup
        name = f"{s.preset}-{s.data}-b{s.batch_size}-k{self.top_k}-s{self.seed}-{s.base_steps}"
        file = work / f"{name}.safetensors"
        if not file.exists():
            subject = Subject(self.config, s, self.corpus, {})
            subject.train(s.base_steps)
            state = subject.state()
            work.mkdir(parents=True, exist_ok=True)
            flat = {f"{kind} {k}": v for kind in KINDS for k, v in state[kind].items()}
            save_file({key: value.contiguous() for key, value in flat.items()}, file)
        kinds: dict[str, Any] = {kind: {} for kind in KINDS}
        for key, value in load_file(file).items():
            kind, _, name = key.partition(" ")
            kinds[kind][name] = value
        return {"step": s.base_steps, **kinds}

    @staticmethod
    def _targets(shares: Mapping[str, float]) -> list[str]:
        # A busy expert and a middling one, among those with at least a quarter of an even share:
        # at top-1 some have no tokens, and nothing about them could be felt.
        order = sorted(shares, key=lambda name: (-shares[name], name))
        used = sum(share >= 0.25 / len(order) for share in shares.values())
        return [order[0], order[max(1, used // 2)]]

    def fresh(self, state: State | None = None, **lifecycle: Any) -> Subject:
        """Return a subject in the base state, or in another, under these lifecycle settings."""
        return Subject(self.config, self.setup, self.corpus, state or self.base, **lifecycle)

    def note(
        self,
        edit: str,
        subject: Subject,
        layer_id: int,
        expert_id: str,
        felt: Mapping[str, Any],
        must: float | None = None,
        **more: Any,
    ) -> None:
        """Keep what an edit's receipt says; ``more`` are fields of the case."""
        shock, output, kl = (felt[key] for key in ("probe_shock", "output_change", "gate_kl"))
        token = more.pop("token", None)
        self.cases.append(
            Case(
                edit=edit,
                top_k=self.top_k,
                seed=self.seed,
                layer_id=layer_id,
                expert_id=expert_id,
                shock=shock,
                output=output,
                token=subject.probe.worst_token(layer_id) if token is None else token,
                gate_kl=kl,
                share=self.shares[layer_id].get(expert_id, 0.0),
                must=must,
                **more,
            )
        )

    def run(self) -> None:
        """Apply every edit to every target."""
        for rank in range(self.setup.targets):
            experts = {layer_id: names[rank] for layer_id, names in self.targets.items()}
            for layer_id, expert_id in experts.items():
                self.splits(layer_id, expert_id)
                self.spawns(layer_id, expert_id)
                self.prunes(layer_id, expert_id)
            self.releases(experts)
            self.releases_as_run(experts)
            self.merges_of_twins(experts)
            self.merges_of_clones(experts)
            self.prunes_of_the_dead(experts)

    def splits(self, layer_id: int, expert_id: str) -> None:
        """Split with and without noise, and by naive copies."""
        subject = self.fresh(split_perturbation_scale=0.0)
        layer, routing = subject.layers[layer_id], subject.reading(layer_id).routing
        assert routing is not None
        before = slow_output(layer, routing.x_TD)
        felt = subject.split(layer_id, expert_id)
        self.note("split, zero noise", subject, layer_id, expert_id, felt, FAST)
        after = slow_output(layer, routing.x_TD)
        change = float((after - before).norm() / before.norm())
        slow = {"probe_shock": None, "output_change": change, "gate_kl": None}
        token, name = largest_change(before, after), "split, zero noise, slow"
        self.note(name, subject, layer_id, expert_id, slow, EXACT, token=token)
        subject = self.fresh()
        felt = subject.split(layer_id, expert_id)
        self.note("split, noise 0.01", subject, layer_id, expert_id, felt)
        for name, both in (("naive split: copy", 0.0), ("naive split: - ln 2", -LN2)):
            subject = self.fresh(split_perturbation_scale=0.0)
            felt = subject.insert_copy(layer_id, expert_id, child=0.0, both=both)
            self.note(name, subject, layer_id, expert_id, felt)

    def releases(self, experts: Mapping[int, str]) -> None:
        """Release twins at once, and after training; all layers split, one is released."""
        subject = self.fresh()
        children = self._split_all(subject, experts)
        now = subject.state()
        subject.train(self.setup.long)
        later = subject.state()
        for when, state in (("at once", now), (f"after {self.setup.long}", later)):
            for delta in DELTAS:
                for layer_id, child_id in children.items():
                    subject = self.fresh(state, split_router_delta=delta)
                    felt = subject.release(child_id)
                    name = f"release {when}, {delta}"
                    self.note(name, subject, layer_id, experts[layer_id], felt)

    def releases_as_run(self, experts: Mapping[int, str]) -> None:
        """Release twins when the lifecycle would: once it shocks little, or at the latest."""
        subject = self.fresh()
        children = self._split_all(subject, experts)
        layer_of = {child: layer_id for layer_id, child in children.items()}
        config = subject.lifecycle
        subject.train(config.cooling_period * CHECKPOINT)
        for age in range(config.cooling_period, config.split_release_limit + 1):
            subject.population.balance_twins()
            ages = dict.fromkeys(subject.registry.twins, age)
            for record in subject.population.release_twins(subject.step, ages):
                layer_id = layer_of[record["expert_id"]]
                name = "release as run" + (", forced" if age == config.split_release_limit else "")
                felt = record["receipt"]
                self.note(name, subject, layer_id, experts[layer_id], felt, RELEASE)
            if not subject.registry.twins:
                return
            subject.train(CHECKPOINT)

    @staticmethod
    def _split_all(subject: Subject, experts: Mapping[int, str]) -> dict[int, str]:
        children = {}
        for layer_id, expert_id in experts.items():
            children[layer_id] = subject.registry.next_id(layer_id)
            subject.split(layer_id, expert_id)
        return children

    def spawns(self, layer_id: int, expert_id: str) -> None:
        """Spawn by every strategy and from several offsets."""
        cluster = self._cluster(layer_id, expert_id)
        for init, name in INITS.items():
            for ramp in RAMPS:
                subject = self.fresh(spawn_init_strategy=init, spawn_ramp_offset=ramp)
                c = candidate(
                    Action.SPAWN,
                    layer_id,
                    subject.registry.next_id(layer_id),
                    parent_id=cluster[0] if name == "clone" else None,
                    cluster=cluster,
                )
                felt = subject.birth(c)
                must = SMALL if ramp == LifecycleConfig().spawn_ramp_offset else None
                self.note(f"spawn {name}, ramp {ramp:g}", subject, layer_id, expert_id, felt, must)
        subject = self.fresh()
        felt = subject.insert_copy(layer_id, expert_id, child=1.0)
        self.note("naive spawn: boost + 1", subject, layer_id, expert_id, felt)

    def _cluster(self, layer_id: int, expert_id: str) -> tuple[str, ...]:
        subject = self.fresh()
        reading = subject.reading(layer_id)
        assert reading.routing is not None
        rows = F.normalize(subject.layers[layer_id].router.weight.detach(), dim=1)
        affinity = rows @ rows.t()
        if self.top_k > 1:
            chosen = F.one_hot(reading.routing.expert_index_KT, rows.shape[0]).sum(0).double()
            affinity = chosen.t() @ chosen
        return tuple(cluster_of(reading.expert_ids, affinity.double().numpy(), expert_id))

    def prunes(self, layer_id: int, expert_id: str) -> None:
        """Prune an expert that has its share, then bring it back."""
        for ramp in RAMPS:
            subject = self.fresh(spawn_ramp_offset=ramp)
            felt = subject.prune(layer_id, expert_id)
            if ramp == RAMPS[0]:
                self.note("prune, with its share", subject, layer_id, expert_id, felt)
            felt = subject.birth(candidate(Action.REVIVE, layer_id, expert_id))
            must = SMALL if ramp == LifecycleConfig().spawn_ramp_offset else None
            self.note(f"revive, ramp {ramp:g}", subject, layer_id, expert_id, felt, must)

    def prunes_of_the_dead(self, experts: Mapping[int, str]) -> None:
        """Hold experts down until nobody asks for them, then prune them."""
        subject = self.fresh()
        for expert_id in experts.values():
            subject.surgeon.write(expert_id, {LOGIT_OFFSET: torch.tensor(-20.0)})
        subject.train(self.setup.short)
        held = subject.state()
        for layer_id, expert_id in experts.items():
            subject = self.fresh(held)
            assert subject.reading(layer_id).shares()[expert_id] == 0.0
            felt = subject.prune(layer_id, expert_id)
            # At top-1 gates are entries of the softmax over all experts: its sum is rounded anew.
            must = FAST if self.top_k == 1 else EXACT
            self.note("prune, no token", subject, layer_id, expert_id, felt, must)

    def _merge(
        self,
        edit: str,
        subject: Subject,
        layer_id: int,
        survivor_id: str,
        absorbed_id: str,
        *,
        permuted: bool = False,
    ) -> None:
        """Merge two experts at once; a row with a star where the lifecycle would not."""
        cosine, overlap = subject.alike(layer_id, survivor_id, absorbed_id)
        converged = is_converged(cosine, overlap)
        if permuted:
            self._permute(subject, layer_id, absorbed_id)
        felt = subject.merge(layer_id, survivor_id, absorbed_id)
        self.note(
            edit if converged else edit + STAR,
            subject,
            layer_id,
            survivor_id,
            felt,
            cosine=cosine,
            overlap=overlap,
        )

    def _merge_as_run(
        self, who: str, subject: Subject, layer_id: int, survivor_id: str, absorbed_id: str
    ) -> None:
        """Merge two experts the way a run does, where it would at all."""
        cosine, overlap = subject.alike(layer_id, survivor_id, absorbed_id)
        if not is_converged(cosine, overlap):
            return
        alike = {"cosine": cosine, "overlap": overlap}
        for what, felt, token in subject.merge_as_run(layer_id, survivor_id, absorbed_id):
            name = f"merge {who}, {what}"
            self.note(name, subject, layer_id, survivor_id, felt, SMALL, token=token, **alike)

    def merges_of_twins(self, experts: Mapping[int, str]) -> None:
        """Split without noise, release, train, and merge back."""
        subject = self.fresh(split_perturbation_scale=0.0)
        children = self._split_all(subject, experts)
        pairs = [(layer_id, experts[layer_id], child) for layer_id, child in children.items()]
        for _, _, child_id in pairs:
            subject.release(child_id)
        for steps in (self.setup.short, self.setup.long):
            subject.train(steps - (subject.step - self.base["step"]))
            state = subject.state()
            for how, name in OFFSETS.items():
                for pair in pairs:
                    one, edit = self.fresh(state, merge_logit_offset=how), f"{steps}, {name}"
                    self._merge(f"merge twins {edit}", one, *pair)
            for pair in pairs:
                self._merge_as_run(f"twins {steps}", self.fresh(state), *pair)
        for pair in pairs:
            one = self.fresh(state)
            self._merge("merge permuted, aligned", one, *pair, permuted=True)
        for pair in pairs:
            one = self.fresh(state)
            one.population.hidden_axes = lambda layer_id: {}  # type: ignore[method-assign]
            self._merge("merge permuted, as is", one, *pair, permuted=True)
        for pair in pairs:
            self._merge_by_hand(self.fresh(state), *pair)

    def _merge_by_hand(self, subject: Subject, layer_id: int, survivor: str, absorbed: str) -> None:
        """Tell apart what a merge is made of: the averages, and the place of one expert less.

        First both become the average and stay. Then one leaves, with the logit offset for the
        other that is felt least: the least that ``merge_logit_offset`` could come to.
        """
        layer, surgeon = subject.layers[layer_id], subject.surgeon
        cosine, overlap = subject.alike(layer_id, survivor, absorbed)
        slots, before = subject.registry.slots(layer_id), subject.reading(layer_id)
        made = merged(
            surgeon.read(survivor),
            surgeon.read(absorbed),
            (0.5, 0.5),
            layer.hidden_axes(),
            subject.lifecycle,
        ).values
        keep = [slot for slot, name in enumerate(slots) if name != absorbed]
        felt: list[tuple[float, dict[str, Any], float]] = []
        for offset in BY_HAND:
            moved = made | {LOGIT_OFFSET: made[LOGIT_OFFSET] + offset}
            with trial(layer, keep, write={keep.index(slots.index(survivor)): moved}):
                after = take_reading(subject.probe, subject.step, layer, [slots[i] for i in keep])
            found = receipt(before, after, [survivor])
            felt.append((abs(found["probe_shock"]), found, _largest(before, after)))
        for name in (survivor, absorbed):
            surgeon.write(name, made)
        after = subject.reading(layer_id)
        stay = receipt(before, after, [survivor]), _largest(before, after)
        _, *least = min(felt, key=lambda each: each[0])
        alike = {"cosine": cosine, "overlap": overlap}
        star = "" if is_converged(cosine, overlap) else STAR
        for edit, (found, token) in (
            (f"average {self.setup.long}, both stay{star}", stay),
            (f"merge twins {self.setup.long}, best{star}", least),
        ):
            self.note(edit, subject, layer_id, survivor, found, token=token, **alike)

    def _permute(self, subject: Subject, layer_id: int, expert_id: str) -> None:
        axes = subject.layers[layer_id].hidden_axes()
        generator = torch.Generator().manual_seed(self.seed)
        order_F = torch.randperm(self.config.model.ff_width, generator=generator)
        values = subject.surgeon.read(expert_id).values
        subject.surgeon.write(expert_id, permute_hidden(values, order_F, axes))

    def merges_of_clones(self, experts: Mapping[int, str]) -> None:
        """Write a copy of an expert over another and merge the two; merge two that are unlike."""
        partners = {i: next(x for x in self.targets[i] if x != e) for i, e in experts.items()}
        pairs = [
            (layer_id, expert_id, partners[layer_id]) for layer_id, expert_id in experts.items()
        ]
        for pair in pairs:
            self._merge("merge strangers, match", self.fresh(), *pair)
        subject = self.fresh()
        for layer_id, expert_id, partner_id in pairs:
            write = {partner_id: subject.surgeon.read(expert_id)}
            subject.surgeon.apply(Edit(layer_id, write=write))
        now = subject.state()
        subject.train(self.setup.long)
        for when, state in (("", now), (f" {self.setup.long}", subject.state())):
            for how, name in OFFSETS.items():
                for pair in pairs:
                    one = self.fresh(state, merge_logit_offset=how)
                    self._merge(f"merge clones{when}, {name}", one, *pair)
            for pair in pairs:
                self._merge_as_run(f"clones{when}", self.fresh(state), *pair)


def summarise(cases: Sequence[Case]) -> list[Row]:
    """Return one row per top-k and edit, in the order in which edits came."""
    rows = []
    edits = list(dict.fromkeys(case.edit for case in cases))
    names = list(dict.fromkeys(edit.removesuffix(STAR) for edit in edits))
    edits.sort(key=lambda edit: (names.index(edit.removesuffix(STAR)), edit.endswith(STAR)))
    for top_k in sorted({case.top_k for case in cases}):
        for edit in edits:
            mine = [case for case in cases if (case.edit, case.top_k) == (edit, top_k)]
            if not mine:
                continue
            shocks = [case.shock for case in mine if case.shock is not None]
            kls = [case.gate_kl for case in mine if case.gate_kl is not None]
            worst = max(shocks, key=abs, default=None)
            output = statistics.median(case.output for case in mine)
            token, must = max(case.token for case in mine), mine[0].must
            # A loss that falls is no harm, but what must be exact must not move at all.
            exact = must in (EXACT, FAST)
            bounded = [abs(worst) if exact else max(shocks)] if worst is not None else []
            if must == EXACT:
                bounded += [max(case.output for case in mine), token]
            rows.append(
                Row(
                    edit,
                    top_k,
                    len(mine),
                    statistics.median(map(abs, shocks)) if shocks else None,
                    worst,
                    output,
                    token,
                    statistics.median(kls) if kls else None,
                    must,
                    must is None or all(figure <= must for figure in bounded),
                )
            )
    return rows


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table, 80 columns wide."""
    top_k = None
    for row in sorted(rows, key=lambda row: row.top_k):
        if row.top_k != top_k:
            top_k = row.top_k
            head = f"top-{top_k}"
            print(
                f"\n{head:26} {'median':>8} {'worst':>8} {'output':>7} {'token':>7} "
                f"{'KL':>7} {'must':>5}"
            )
        figures = [
            _number(row.median, 8),
            _number(row.worst, 8, "+"),
            _number(row.output, 7),
            _number(row.token, 7),
            _number(row.gate_kl, 7),
            f"{'' if row.must is None else f'{row.must:.0e}' if row.must else '0':>5}",
            "" if row.must is None else "ok" if row.holds else "MISS",
        ]
        print(f"{row.edit:26} {' '.join(figures)}".rstrip())


def _number(figure: float | None, width: int, sign: str = "") -> str:
    if figure is None or figure == 0.0:
        return f"{'-' if figure is None else '0':>{width}}"
    return f"{figure:{sign}{width}.0e}" if width < 8 else f"{figure:{sign}{width}.1e}"


def machine() -> dict[str, object]:
    """Return what the figures may depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def measure(
    setup: Setup, top_ks: Sequence[int], seeds: Sequence[int], work: Path
) -> dict[str, Any]:
    """Measure one preset, print its table and return the record."""
    cases: list[Case] = []
    bases = []
    corpus: TokenizedCorpus | None = None
    for top_k in top_ks:
        for seed in seeds:
            bench = Bench(setup, top_k, seed, work, corpus)
            corpus = bench.corpus
            bench.run()
            cases += bench.cases
            bases.append({"top_k": top_k, "seed": seed, "probe_loss": bench.loss})
            note = f"{setup.preset} top-{top_k} seed {seed}: probe loss {bench.loss:.3f}"
            print(note, file=sys.stderr, flush=True)
    rows = summarise(cases)
    probe = setup.probe_batches * bench.config.lifecycle.probe_batch_size
    tokens = probe * bench.config.model.context_length
    losses = [base["probe_loss"] for base in bases]
    print(
        f"\n{setup.preset} on {setup.data}, {setup.base_steps} steps of {2 * setup.base_steps}, "
        f"seeds {', '.join(map(str, seeds))}, layers {', '.join(map(str, setup.layers))}\n"
        f"probe: {tokens} tokens, loss {min(losses):.3f} to {max(losses):.3f}"
    )
    print_rows(rows)
    return {
        "setup": asdict(setup),
        "probe_tokens": tokens,
        "seeds": list(seeds),
        "bases": bases,
        "rows": [asdict(row) for row in rows],
        "case_fields": list(Case.__dataclass_fields__),
        "cases": [[_short(field) for field in vars(case).values()] for case in cases],
    }


def _short(field: object) -> object:
    return float(f"{field:.4g}") if isinstance(field, float) else field


def to_json(record: Mapping[str, Any]) -> str:
    """Return the record, each case on a line of its own."""
    text = json.dumps(record, indent=1)
    # No string in a case holds a bracket: what stands between brackets is one list of plain values.
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text) + "\n"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true", help="measure tiny as well")
    parser.add_argument("--data", choices=("stdlib", "synthetic"), help="default: stdlib")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the trained states there")
    parser.add_argument("--quick", action="store_true", help="one seed, hardly trained: a test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and say by the exit code whether every must holds."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    names = ["quick"] if arguments.quick else ["nano", "tiny"] if arguments.full else ["nano"]
    record: dict[str, Any] = {
        "machine": machine(),
        "command": shlex.join(["python", *sys.argv]),
    }
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        for name in names:
            setup = SETUPS[name]
            if arguments.data:
                setup = Setup(**(asdict(setup) | {"data": arguments.data}))
            seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
            record[name] = measure(setup, arguments.top_k, seeds, work)
            rows += record[name]["rows"]
    if arguments.json:
        arguments.json.write_text(to_json(record), encoding="utf-8")
    missed = sum(not row["holds"] for row in rows)
    print(f"\n{missed} of {sum(row['must'] is not None for row in rows)} musts missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
