"""All edits on one trained state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from chronorun.config.compose import compose_run
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.data import TokenizedCorpus, load_corpus
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.derived import cluster_of
from chronorun.lifecycle.edit.alignment import permute_hidden
from chronorun.lifecycle.edit.births import merged
from chronorun.lifecycle.edit.receipts import Reading, receipt, take_reading
from chronorun.lifecycle.edit.saved import Edit
from chronorun.lifecycle.edit.trial import trial
from chronorun.model.population import LOGIT_OFFSET
from preserving.cases import EXACT, FAST, RELEASE, SMALL, STAR, Case, Setup
from preserving.subject import (
    CHECKPOINT,
    KINDS,
    LN2,
    State,
    Subject,
    candidate,
    largest_change,
    slow_output,
)

DELTAS = (0.02, 0.05, 0.1)
RAMPS = (-5.0, -2.0, 0.0)
BY_HAND = tuple(0.1 * tenths for tenths in range(-3, 14))
INITS = {"clone_and_perturb": "clone", "mean_cluster": "mean", "random": "random"}
OFFSETS = {"match": "match", "zero": "zero", "ln2": "+ ln 2"}


def is_converged(cosine: float, overlap: float) -> bool:
    """Say whether the lifecycle would call two experts converged, by its default thresholds."""
    c = LifecycleConfig()
    return cosine > c.merge_similarity_threshold and overlap > c.merge_overlap_threshold


def _largest(before: Reading, after: Reading) -> float:
    assert before.y_TD is not None
    assert after.y_TD is not None
    return largest_change(before.y_TD, after.y_TD)


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
            subject.population.releases.balance()
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
            for layer in one.layers:
                layer.hidden_axes = dict  # type: ignore[method-assign]
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
