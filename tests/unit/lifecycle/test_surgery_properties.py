"""Whatever edits a population goes through, it stays one: weights, moments, ids, archive, twins."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from hypothesis import given, settings, strategies as st
from safetensors.torch import load, save
from torch import Tensor
from unit.lifecycle.small_run import SmallRun, make_model, same

from chronorun.config.lifecycle import ChildMoments, LifecycleConfig, ParentMoments, SpawnInit
from chronorun.core.state import pack, unpack
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.training.checkpoints.folder import load_optimizer_tensors, optimizer_tensors

MOST_EXPERTS = 7
KINDS = ["split", "spawn", "prune", "merge", "revive", "rollback", "release", "train"]
actions = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 1), st.integers(0, 20)),
    min_size=1,
    max_size=7,
)
configs = st.builds(
    LifecycleConfig,
    spawn_init_strategy=st.sampled_from(SpawnInit),
    child_moments=st.sampled_from(ChildMoments),
    parent_moments=st.sampled_from(ParentMoments),
    rewarm_steps=st.just(5),
)


class Edited(SmallRun):
    """Does what is drawn where the floors and the states allow it; names what it may touch."""

    def act(self, kind: str, layer_id: int, pick: int) -> set[str]:
        """Return the experts that the edit may change."""
        do: Callable[[int, int], set[str]] = getattr(self, f"do_{kind}")
        return do(layer_id, pick)

    def groups(self, layer_id: int) -> int:
        return len(self.registry.groups(layer_id))

    def _floor(self, layer_id: int) -> int:
        return max(self.config.min_experts_per_layer, self.layers[layer_id].top_k)

    def _single(self, layer_id: int) -> list[str]:
        """Return the experts that are in no pair and on no ramp."""
        return [
            names[0]
            for names in self.registry.groups(layer_id)
            if len(names) == 1 and names[0] not in self.ledger.ramps
        ]

    def _room(self, layer_id: int) -> bool:
        return self.layers[layer_id].num_experts < MOST_EXPERTS

    def do_split(self, layer_id: int, pick: int) -> set[str]:
        single = self._single(layer_id)
        if not single or not self._room(layer_id):
            return set()
        parent = single[pick % len(single)]
        done = self.split(parent)
        return {done.expert_id} | ({parent} if self._parent_is_zeroed() else set())

    def _parent_is_zeroed(self) -> bool:
        return self.config.parent_moments is ParentMoments.zero

    def do_spawn(self, layer_id: int, pick: int) -> set[str]:
        slots = self.registry.slots(layer_id)
        if not self._room(layer_id):
            return set()
        cluster = [slots[(pick + i) % len(slots)] for i in range(3)]
        cloned = self.config.spawn_init_strategy is SpawnInit.clone_and_perturb
        return {self.spawn(layer_id, list(dict.fromkeys(cluster)), cloned=cloned).expert_id}

    def do_prune(self, layer_id: int, pick: int) -> set[str]:
        names = [g[0] for g in self.registry.groups(layer_id) if len(g) == 1]
        if not names or self.groups(layer_id) <= self._floor(layer_id):
            return set()
        name = names[pick % len(names)]
        if self.registry[name].state is ExpertState.active:
            self.registry.transition(name, ExpertState.dormant, self.step, "no share")
        return {self.prune(name).expert_id}

    def do_merge(self, layer_id: int, pick: int) -> set[str]:
        names = [
            name
            for name in self._single(layer_id)
            if self.registry[name].state is ExpertState.active
        ]
        if len(names) < 2 or self.groups(layer_id) <= self._floor(layer_id):
            return set()
        first = names[pick % len(names)]
        second = names[(pick + 1) % len(names)]
        self.merge(first, second)
        return {first, second}

    def do_revive(self, layer_id: int, pick: int) -> set[str]:
        known = [r.expert_id for r in self.registry.archived(layer_id)]
        if not known or not self._room(layer_id):
            return set()
        return {self.birth(Action.REVIVE, layer_id, known[pick % len(known)]).expert_id}

    def do_rollback(self, layer_id: int, pick: int) -> set[str]:
        seqs = [s for s, b in self.ledger.undo.items() if self._can_go_back(s, b.layer_id)]
        if not seqs:
            return set()
        undo = self.ledger.undo[seqs[pick % len(seqs)]]
        self.roll_back(undo.seq)
        return {*undo.born, *undo.gone, *undo.saved}

    def _can_go_back(self, seq: int, layer_id: int) -> bool:
        undo = self.ledger.undo[seq]
        live = set(self.registry.slots(layer_id))
        touched = {*undo.born, *undo.gone, *undo.saved}
        later = [b for s, b in self.ledger.undo.items() if s > seq]
        superseded = any(touched & {*b.born, *b.gone, *b.saved} for b in later)
        return (
            not superseded
            and live >= {*undo.born, *(undo.saved.keys() - set(undo.gone))}
            and not live & set(undo.gone)
            and self.groups(layer_id) - len(undo.born) + len(undo.gone) >= self._floor(layer_id)
        )

    def do_release(self, layer_id: int, pick: int) -> set[str]:
        ages = dict.fromkeys(self.registry.twins, 99)
        pairs = {*self.registry.twins, *self.registry.twins.values()}
        released = self.population.release_twins(self.step, ages) if ages else []
        assert len(released) == len(ages)
        return pairs

    def do_train(self, layer_id: int, pick: int) -> set[str]:
        self.train(2)
        for records in (self.registry.live(i) for i in self.registry.layers()):
            for record in records:
                twins = {*self.registry.twins, *self.registry.twins.values()}
                cooled = record.state is ExpertState.cooling and record.expert_id not in twins
                if cooled and record.expert_id not in self.ledger.ramps:
                    self.registry.transition(
                        record.expert_id, ExpertState.active, self.step, "cooling over"
                    )
        return set(self.all_live())


def check_one_population(run: Edited, ids_so_far: set[str]) -> None:
    parameters = {id(p) for p in run.model.parameters()}
    grouped = [id(p) for group in run.optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == parameters
    assert {id(p) for p in run.optimizer.state} == parameters
    for parameter, state in run.optimizer.state.items():
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
    archived: set[str] = set()
    for layer_id, layer in enumerate(run.layers):
        slots = run.registry.slots(layer_id)
        assert len(set(slots)) == len(slots) == layer.num_experts
        for tensor in layer.slot_tensors().values():
            assert tensor.shape[0] == len(slots)
        assert len(run.registry.groups(layer_id)) >= layer.top_k
        assert layer.num_groups == len(run.registry.groups(layer_id))
        assert run.tap.n_experts[layer_id] == len(slots)
        pairs = {} if layer.twins is None else {p.child: p.parent for p in layer.twins.pairs}
        expected = {c: p for c, p in run.registry.twins.items() if c in slots}
        assert {slots[c]: slots[p] for c, p in pairs.items()} == expected
        for name in slots:
            views = run.registry[name].weight_ref()
            assert views["experts.w1"].data_ptr() == (
                layer.experts.w1[slots.index(name)].data_ptr()
            )
        archived |= {r.expert_id for r in run.registry.archived(layer_id)}
        assert all(r.weight_ref() is None for r in run.registry.archived(layer_id))
    assert set(run.registry.twins) == set(run.surgeon.planes)
    assert set(run.population.archive.state_dict()["memory"]) == archived
    assert set(run.ledger.ramps) <= set(run.all_live())
    assert ids_so_far <= set(run.registry.records)
    assert not set(run.surgeon.guard.state_dict()["rewarms"]) - set(run.all_live())


def apply_and_check(run: Edited, todo: list[tuple[str, int, int]]) -> None:
    for kind, layer_id, pick in todo:
        before, others = run.all_live(), shared_weights(run)
        ids, count = set(run.registry.records), len(run.registry.records)
        touched = run.act(kind, layer_id, pick)
        check_one_population(run, ids)
        assert len(run.registry.records) - count <= 1
        if kind == "train":
            continue
        after = run.all_live()
        for name in before.keys() - touched:
            assert same(before[name], after[name]), (kind, name)
        assert same(others, shared_weights(run))
        assert all(math.isfinite(loss) for loss in run.train())


def shared_weights(run: Edited) -> dict[str, Tensor]:
    """Return what belongs to no expert: the rest of the model and its moments, and step counts."""
    slots = {id(t) for layer in run.layers for t in layer.slot_tensors().values()}
    found = {}
    for name, parameter in run.model.named_parameters():
        state = run.optimizer.state[parameter]
        found[f"{name}|step"] = state["step"].clone()
        if id(parameter) not in slots:
            found[name] = parameter.detach().clone()
            found |= {f"{name}|{e}": v.clone() for e, v in state.items()}
    return found


@settings(max_examples=40, deadline=None)
@given(actions, configs, st.sampled_from([1, 2]))
def test_any_edits_leave_one_consistent_population(
    todo: list[tuple[str, int, int]], config: LifecycleConfig, top_k: int
) -> None:
    run = Edited(top_k=top_k, config=config)
    run.train(3)
    apply_and_check(run, todo)


@settings(max_examples=20, deadline=None)
@given(actions, configs)
def test_a_run_goes_on_bit_equal_from_saved_state(
    todo: list[tuple[str, int, int]], config: LifecycleConfig
) -> None:
    run = Edited(config=config)
    run.train(3)
    for kind, layer_id, pick in todo:
        run.act(kind, layer_id, pick)
        run.train()
    resumed = reloaded(run)
    check_one_population(resumed, set(run.registry.records))
    assert run.train(3) == resumed.train(3)
    live, other = run.all_live(), resumed.all_live()
    assert live.keys() == other.keys()
    assert all(same(live[name], other[name]) for name in live)
    assert same(shared_weights(run), shared_weights(resumed))
    undos = run.ledger.undo.items()
    if seqs := [s for s, b in undos if run._can_go_back(s, b.layer_id)][:1]:
        for one in (run, resumed):
            one.roll_back(seqs[0])
        live, other = run.all_live(), resumed.all_live()
        assert all(same(live[name], other[name]) for name in live)


def reloaded(run: Edited) -> Edited:
    """Return a run built anew from what a checkpoint holds, files included."""
    state = {
        "registry": run.registry.state_dict(),
        "tap": run.tap.state_dict(),
        "population": run.population.state_dict(),
    }
    plain, tensors = pack(state)
    text = json.dumps(plain)
    packed = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    tensors = load(save(packed))
    weights = load(save({k: v.clone() for k, v in run.model.state_dict().items()}))
    moments = {k: v.clone() for k, v in optimizer_tensors(run.model, run.optimizer).items()}
    moments = load(save(moments))
    population = [layer.num_experts for layer in run.layers]
    resumed = Edited(population, top_k=run.layers[0].top_k, config=run.config)
    assert (
        make_model(population).parameter_counts()["total"]
        == (run.model.parameter_counts()["total"])
    )
    resumed.model.load_state_dict(weights)
    load_optimizer_tensors(resumed.model, resumed.optimizer, moments)
    state = unpack(json.loads(text), tensors)
    resumed.registry.load_state_dict(state["registry"])
    resumed.tap.load_state_dict(state["tap"])
    resumed.population.load_state_dict(state["population"])
    resumed.step = run.step
    return resumed


def test_an_id_is_never_used_twice() -> None:
    run = Edited(top_k=1)
    run.train(3)
    seen: list[str] = []
    for _ in range(3):
        done = run.split("L0_E0")
        run.roll_back(done.seq)
        seen.append(done.expert_id)
    assert seen == ["L0_E4", "L0_E5", "L0_E6"]
    assert run.registry.next_id(0) == "L0_E7"
    assert run.layers[0].num_experts == 4
