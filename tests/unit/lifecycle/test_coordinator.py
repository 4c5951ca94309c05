"""The coordinator in a training loop: it looks, decides, and has the edits made."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from unit.lifecycle.small_run import VOCAB, WIDTH, batch, make_model

from chronorun.config.governance import ControlConfig
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.model import GateOrder, RouterConfig
from chronorun.config.observing import TelemetryConfig
from chronorun.config.training import OptimizerConfig
from chronorun.core.state import pack, unpack
from chronorun.errors import UserError
from chronorun.governance import ControlDecision, Controller
from chronorun.lifecycle import LifecycleCoordinator, LifecycleDecision, LifecycleHook
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.decisions import make_decision
from chronorun.lifecycle.record.logs import LifecycleLogs
from chronorun.model.shapes import Routing
from chronorun.telemetry import LayerSnapshot, RoutingRecorder, SystemSnapshot
from chronorun.training.checkpoints.folder import load_optimizer_tensors, optimizer_tensors
from chronorun.training.heartbeat import attach_lens
from chronorun.training.optimizer import build_optimizer

EVERY = 3
"""Steps from one checkpoint to the next."""


def eager(**options: Any) -> LifecycleConfig:
    """Return a configuration that acts at every checkpoint, on nothing unless asked."""
    quiet = {
        "lifecycle_eval_interval": 1,
        "lifecycle_warmup_steps": 0,
        "cooling_period": 2,
        "prune_patience": 2,
        "prune_lens_grace": 1,
        "split_patience": 2,
        "spawn_patience": 2,
        "merge_patience": 2,
        "split_cooldown_per_expert": 60,
        "spawn_cooldown_steps": 60,
        "reversal_cooldown_checkpoints": 0,
        "probation_checkpoints": 2,
        "split_enabled": False,
        "merge_enabled": False,
        "prune_enabled": False,
        "spawn_enabled": False,
        "revive_enabled": False,
    }
    return LifecycleConfig(**(quiet | options))


class Lines(list[Any]):
    """Takes records as a file would: as they are at that moment."""

    def write(self, record: Any) -> None:
        self.append(json.loads(json.dumps(record, default=vars)))

    def write_all(self, records: Sequence[Any]) -> None:
        for record in records:
            self.write(record)


class Loop:
    """A training loop with recorder, controller, lenses and probe, and perhaps a coordinator."""

    def __init__(
        self,
        config: LifecycleConfig | None,
        *,
        population: list[int] | None = None,
        top_k: int = 1,
        router: RouterConfig | None = None,
        hook: bool = False,
        begin: bool = True,
        probe: bool = True,
    ) -> None:
        population = population or [4, 4]
        self.model = make_model(population, top_k=top_k, router=router)
        self.layers = self.model.moe_layers()
        self.optimizer = build_optimizer(self.model, OptimizerConfig(lr=1e-2))
        self.recorder = RoutingRecorder(population, top_k, EVERY, "cpu", TelemetryConfig(), VOCAB)
        self.controller = Controller(2, population, ControlConfig(), writer=Lines())
        cpu = torch.device("cpu")
        self.lenses = {layer.layer_id: attach_lens(layer, 4, cpu) for layer in self.layers}
        self.logs = LifecycleLogs(Lines(), Lines(), Lines(), Lines())
        self.coordinator: LifecycleCoordinator | None = None
        self.hook: LifecycleHook | None = None
        self.begin = begin
        if config is not None:
            self.coordinator = LifecycleCoordinator(
                self.controller,
                self.model,
                config,
                optimizer=self.optimizer,
                recorder=self.recorder,
                lenses=self.lenses,
                probe=self.probe if probe else None,
                logs=self.logs,
                run_id="run",
                max_top_k=top_k,
            )
            if hook:
                self.hook = LifecycleHook(self.coordinator).attach(self.controller)
        for layer in self.layers:
            layer.observer = self._observe
            if self.coordinator is not None:
                layer.gate_observer = self.coordinator.observe_gates
        self.step = 0
        self.losses: list[float] = []
        self.returned: list[LifecycleDecision] = []
        self.integrated: list[LifecycleDecision] = []

    @property
    def c(self) -> LifecycleCoordinator:
        assert self.coordinator is not None
        return self.coordinator

    @property
    def actions(self) -> list[str]:
        return [decision.action for decision in self.c.decisions]

    def _observe(self, layer_id: int, routing: Routing) -> None:
        self.recorder.observe(layer_id, routing)
        if self.coordinator is not None:
            self.coordinator.observe(layer_id, routing)

    @torch.no_grad()
    def probe(self, step: int) -> float:
        self.model.eval()
        tokens = batch(10_000 + step, 8)
        loss = self.model(tokens[:, :-1], tokens[:, 1:]).loss
        self.model.train()
        assert loss is not None
        return float(loss)

    def train(self, steps: int = EVERY) -> None:
        for _ in range(steps):
            tokens = batch(self.step)
            if self.coordinator is not None and self.begin:
                self.integrated += self.coordinator.begin_step(self.step)
            self.recorder.begin_step(tokens[:, :-1])
            out = self.model(tokens[:, :-1], tokens[:, 1:])
            assert out.loss is not None
            (out.loss + 0.01 * out.load_balancing_loss).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.recorder.end_step(self.step, out.loss)
            self.losses.append(float(out.loss.detach()))

    def snapshot(self) -> SystemSnapshot:
        window = self.recorder.flush()
        return SystemSnapshot.from_window(window, self.step, self.losses[-1], None, "run", "small")

    def beat(self) -> list[LifecycleDecision]:
        """Train to the next checkpoint and evaluate it."""
        self.train()
        snapshot = self.snapshot()
        control: list[ControlDecision] = self.controller.update(snapshot, self.lenses)
        if self.hook is not None:
            self.returned += self.hook.last_actions
            return self.hook.last_actions
        done = [] if self.coordinator is None else self.coordinator.evaluate(snapshot, control)
        self.returned += done
        return done

    def beats(self, n: int) -> None:
        for _ in range(n):
            self.beat()

    def until(self, action: str, most: int = 12) -> LifecycleDecision:
        for _ in range(most):
            for decision in self.beat():
                if decision.action == action:
                    return decision
        raise AssertionError(f"no {action} in {most} checkpoints")

    def push(self, layer_id: int, slot: int, offset: float) -> None:
        """Make the router favour or shun one expert from outside, as a stress would."""
        self.layers[layer_id].router.logit_offset[slot] = offset


def hogging(config: LifecycleConfig | None = None, **options: Any) -> Loop:
    loop = Loop(config or eager(split_enabled=True), **options)
    loop.push(0, 1, 3.0)
    return loop


# ---- what each action does -------------------------------------------------------------------


def test_a_checkpoint_without_cause_only_looks() -> None:
    loop = Loop(eager())
    loop.beats(3)
    assert loop.returned == []
    assert loop.c.alerts == []
    assert loop.logs.decisions == []  # type: ignore[comparison-overlap]
    evaluations = loop.logs.evaluations
    assert isinstance(evaluations, Lines)
    assert [(e["step"], e["layer_id"]) for e in evaluations] == [
        (3, 0), (3, 1), (6, 0), (6, 1), (9, 0), (9, 1),
    ]  # fmt: skip
    assert all(e["cycle"] and e["candidates"] == [] for e in evaluations)
    assert len(evaluations[0]["signals"]["experts"]) == 4
    basins, transitions = loop.logs.basins, loop.logs.transitions
    assert isinstance(basins, Lines)
    assert isinstance(transitions, Lines)
    assert len(basins) == 3 * 8
    assert [t["reason"] for t in transitions[:8]] == ["initial"] * 8
    assert all(t["reason"] in ("no share", "share again") for t in transitions[8:])
    assert loop.c.cycles == 3


def test_a_dead_expert_is_pruned_and_nothing_is_felt() -> None:
    loop = Loop(eager(prune_enabled=True), top_k=2)
    loop.push(1, 2, -40.0)
    done = loop.until("PRUNE")
    assert (done.layer_id, done.expert_id, done.reason) == (1, "L1_E2", "dormant")
    assert done.step == done.integrated_step == loop.step
    assert done.experts_after == ["L1_E0", "L1_E1", "L1_E3"]
    # Not 0 to the bit, as without a lens: where it steers to depends on who is there.
    assert loop.lenses[1].s > 0.0
    assert done.receipt["probe_share"] == {"L1_E2": [0.0, None]}
    assert done.receipt["output_change"] <= 1e-3
    assert abs(done.receipt["probe_shock"]) <= 1e-5
    assert done.config_snapshot["prune_patience"] == 2
    assert loop.layers[1].num_experts == 3
    assert loop.c.counts["PRUNE"] == 1
    assert isinstance(loop.logs.decisions, Lines)
    (line,) = loop.logs.decisions
    assert list(line)[:9] == [
        "step", "run_id", "action", "layer_id", "expert_id", "parent_id", "reason",
        "metrics_at_decision", "config_snapshot",
    ]  # fmt: skip
    assert line == json.loads(json.dumps(done.to_dict()))
    assert isinstance(loop.logs.transitions, Lines)
    told = [t for t in loop.logs.transitions if t["expert_id"] == "L1_E2"]
    assert [t["to"] for t in told] == ["active", "dormant", "pending_prune", "archived"]
    loop.beats(3)
    # Judged: undoing it changes next to nothing; what it saved is let go.
    assert loop.c.ledger.undo == {}
    judged, mean = loop.c.policy.benefits["PRUNE"]
    assert judged == 1
    assert abs(mean) < 1e-4


def test_a_hog_is_split_released_and_settles() -> None:
    loop = hogging()
    done = loop.until("SPLIT")
    assert (done.expert_id, done.parent_id, done.child_ids) == ("L0_E4", "L0_E1", ["L0_E4"])
    assert done.integrated_step is None
    assert loop.layers[0].num_experts == 4
    assert loop.logs.decisions == []  # type: ignore[comparison-overlap]
    before = loop.step
    loop.train(1)
    (line,) = loop.integrated
    assert (line.step, line.integrated_step) == (before, before)
    assert line.experts_before == ["L0_E0", "L0_E1", "L0_E2", "L0_E3"]
    assert line.experts_after == [*line.experts_before, "L0_E4"]
    assert line.receipt["output_change"] < 0.1
    assert loop.layers[0].num_groups == 4
    assert loop.c.registry.twins == {"L0_E4": "L0_E1"}
    loop.train(EVERY - 1)
    loop.snapshot()
    for _ in range(6):
        loop.beat()
    released = [t for t in loop.logs.transitions if t.get("event") == "released"]  # type: ignore
    assert len(released) == 1
    assert released[0]["receipt"]["probe_shock"] <= 0.002
    assert loop.layers[0].twins is None
    assert loop.c.registry["L0_E4"].state in (ExpertState.active, ExpertState.dormant)


def test_a_checkpoint_probes_a_model_that_stays_as_it_is_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With these gates no expert but the split one is suspected, which would be probed as well.
    router = RouterConfig(gate_order=GateOrder.topk_then_softmax)
    loop = hogging(eager(split_enabled=True, split_release_limit=40), router=router)
    loop.until("SPLIT")
    releases, asked = loop.c.population.releases, list[int]()
    gentlest = releases._gentlest_release

    def felt(*arguments: Any) -> Any:
        record, *rest = gentlest(*arguments)
        record["receipt"]["probe_shock"] = 1.0
        return record, *rest

    def probe(step: int) -> float:
        asked.append(step)
        return loop.probe(step)

    monkeypatch.setattr(releases, "_gentlest_release", felt)
    loop.c.population.probe = probe
    loop.train(EVERY)
    loop.snapshot()
    calls = []
    while not (loop.logs.evaluations and loop.logs.evaluations[-2]["judgements"]):  # type: ignore
        asked.clear()
        loop.beat()
        calls.append(len(asked))
    # Before and after a release that is not made; then the split undone, and the parent restored.
    assert calls[-1] == 4
    assert set(calls[:-1]) <= {0, 2}


def test_twins_released_at_once_compete_from_the_start() -> None:
    loop = hogging(eager(split_enabled=True, split_release="at_once"))
    done = loop.until("SPLIT")
    loop.train(1)
    layer, slot = loop.layers[0], loop.c.registry.slot_of(done.expert_id)
    assert layer.twins is None
    assert loop.c.registry.twins == {}
    assert layer.num_groups == 5
    parent = loop.c.registry.slot_of("L0_E1")
    assert not torch.equal(layer.router.weight[slot], layer.router.weight[parent])


@pytest.mark.parametrize("strategy", ["clone_and_perturb", "mean_cluster", "random"])
def test_an_undecided_layer_gets_an_expert_that_ramps_in(strategy: str) -> None:
    config = eager(
        spawn_enabled=True,
        spawn_entropy_threshold=0.05,
        spawn_init_strategy=strategy,
        probation_checkpoints=20,
    )
    loop = Loop(config)
    done = loop.until("SPAWN")
    assert (done.parent_id is not None) is (strategy == "clone_and_perturb")
    loop.train(1)
    layer, slot = loop.layers[done.layer_id], 4
    assert layer.num_experts == 5
    assert float(layer.router.logit_offset[slot]) == pytest.approx(-5.0)
    assert loop.integrated[0].receipt["probe_shock"] < 0.01
    loop.train(EVERY - 1)
    loop.snapshot()
    loop.beats(2)
    assert float(layer.router.logit_offset[slot]) == 0.0
    assert not loop.c.ledger.ramps


def test_planted_copies_are_merged_into_the_older() -> None:
    loop = Loop(eager(merge_enabled=True), top_k=2)
    layer = loop.layers[0]
    with torch.no_grad():
        for tensor in (layer.router.weight, layer.experts.w1, layer.experts.w2):
            tensor[2] = tensor[1]
    # Both fill both places of the tokens that want them: with the same tokens, one overlap.
    loop.push(0, 1, 0.5)
    loop.push(0, 2, 0.5)
    decided = loop.until("MERGE")
    assert (decided.expert_id, decided.partner_id) == ("L0_E1", "L0_E2")
    # Tokens choose both: the absorbed one fades out before it is removed.
    assert decided.integrated_step is None
    assert loop.c.registry["L0_E1"].state is ExpertState.cooling
    loop.beats(4)
    assert loop.c.registry["L0_E2"].merged_into == "L0_E1"
    (done,) = (d for d in loop.c.decisions if d.action == "MERGE")
    assert done.seq == decided.seq
    assert done.integrated_step is not None
    assert done.receipt["probe_share"]["L0_E2"][1] is None
    assert abs(done.receipt["averaged"]["probe_shock"]) < 1e-3


def test_an_edit_that_does_harm_is_rolled_back_and_waits_longer() -> None:
    config = eager(split_enabled=True, split_perturbation_scale=30.0, harm_tolerance=0.0)
    loop = hogging(config)
    done = loop.until("SPLIT")
    before = [layer.num_experts for layer in loop.layers]
    undone = loop.until("ROLLBACK", 4)
    assert undone.undoes == done.seq
    assert [layer.num_experts for layer in loop.layers] == before
    assert loop.c.registry["L0_E4"].state is ExpertState.archived
    assert loop.c.policy.layers[0].multipliers == {"SPLIT": 2}
    assert loop.c.ledger.undo == {}
    assert undone.receipt["probe_shock"] < 0.0
    loop.beats(2)


# ---- dry run, hooks, refusals ----------------------------------------------------------------


def test_a_dry_run_decides_and_changes_no_bit_of_the_loss() -> None:
    config = eager(
        dry_run=True,
        split_enabled=True,
        prune_enabled=True,
        spawn_enabled=True,
        spawn_entropy_threshold=0.05,
        suspect_loss_tolerance=0.0,
    )
    dry, plain = Loop(config), Loop(None)
    for loop in (dry, plain):
        loop.push(0, 1, 3.0)
        loop.push(1, 2, -40.0)
        loop.beats(8)
    assert dry.losses == plain.losses
    for name, value in dry.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name])
    assert {"SPLIT", "PRUNE", "SPAWN"} <= set(dry.actions)
    assert all(decision.dry_run for decision in dry.c.decisions)
    assert not dry.c.counts
    assert isinstance(dry.logs.decisions, Lines)
    assert len(dry.logs.decisions) == len(dry.returned)
    assert dry.c.registry.slots(0) == [f"L0_E{i}" for i in range(4)]
    # Budgets and cooldowns are charged: the same hog is not split at every checkpoint.
    split = [d for d in dry.c.decisions if d.action == "SPLIT" and d.parent_id == "L0_E1"]
    assert len(split) == 1


def test_a_hook_runs_it_at_the_end_of_each_update() -> None:
    by_hook, by_hand = hogging(hook=True), hogging()
    assert by_hook.hook is not None
    assert by_hook.controller.after_update == [by_hook.hook]
    for loop in (by_hook, by_hand):
        loop.beats(5)
    assert by_hook.losses == by_hand.losses
    assert by_hook.actions == by_hand.actions == ["SPLIT"]
    assert by_hook.hook.last_actions == []


def test_a_forward_integrates_what_waits_when_nobody_says_that_a_step_begins() -> None:
    told, untold = hogging(begin=True), hogging(begin=False)
    for loop in (told, untold):
        loop.until("SPLIT")
        loop.probe(0)
        assert loop.layers[0].num_experts == 4
        loop.beats(5)
    assert told.integrated
    assert not untold.integrated
    assert untold.losses == told.losses
    assert [d.to_dict() for d in untold.c.decisions] == [d.to_dict() for d in told.c.decisions]
    assert untold.recorder.last_window is not None
    assert untold.recorder.last_window.tokens == [64] * EVERY


def test_ramps_go_on_when_nobody_says_that_a_step_begins() -> None:
    config = eager(spawn_enabled=True, spawn_entropy_threshold=0.05)
    told, untold = Loop(config), Loop(config, begin=False)
    for loop in (told, untold):
        loop.until("SPAWN")
        loop.beats(4)
    assert untold.losses == told.losses


def test_a_snapshot_of_another_population_is_refused_and_changes_nothing() -> None:
    loop = Loop(eager())
    loop.beat()
    state = json.dumps(loop.c.registry.state_dict())
    layers = [LayerSnapshot.from_shares(0, np.full(4, 0.25))]
    layers.append(LayerSnapshot.from_shares(1, np.full(5, 0.2)))
    snapshot = SystemSnapshot(9, 0.0, 1.0, None, layers)
    message = (
        "lifecycle: layer 1 of the snapshot has 5 experts, expected 4; take snapshots of "
        "windows in which the population did not change"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        loop.c.evaluate(snapshot, [])
    assert json.dumps(loop.c.registry.state_dict()) == state
    assert loop.c.ledger.last_step == EVERY


def test_layers_without_the_routers_names_are_refused() -> None:
    class Layer(nn.Module):
        num_experts, top_k = 2, 1

        def slot_tensors(self) -> dict[str, Tensor]:
            return {"router.weight": torch.zeros(2, 3)}

        def set_slot_tensors(self, tensors: Any) -> None: ...

    class Model(nn.Module):
        def moe_layers(self) -> Sequence[Layer]:
            return [Layer()]

    message = (
        "lifecycle: slot_tensors() of layer 0 lacks router.logit_offset, expected router rows "
        "[E, D] and logit offsets [E] under these names; see chronorun.model.population"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        LifecycleCoordinator(None, Model())


def test_without_a_probe_probations_end_and_undos_are_let_go() -> None:
    loop = hogging(probe=False)
    loop.until("SPLIT")
    loop.beat()
    assert len(loop.c.ledger.undo) == 1
    loop.beats(4)
    assert loop.c.policy.probations == []
    assert loop.c.ledger.undo == {}
    assert loop.c.decisions[0].receipt.keys() == {"layer_bytes", "optimizer_bytes"}


def test_another_optimizer_is_guarded_instead_of_the_first() -> None:
    loop = Loop(eager())
    other = build_optimizer(loop.model, OptimizerConfig(lr=1e-3))
    loop.c.attach_optimizer(other)
    loop.train(1)
    assert loop.c.tap.steps == 0
    loop.optimizer = other
    loop.train(1)
    assert loop.c.tap.steps == 1


def test_an_expert_whose_weights_jump_is_a_suspect() -> None:
    loop = Loop(eager(suspect_loss_tolerance=10.0))
    loop.beats(10)
    alerts = []
    for _ in range(2):
        with torch.no_grad():
            loop.layers[0].experts.w1[2] += 4.0
        loop.beat()
        alerts.append(loop.c.alerts)
    assert alerts == [
        [],
        ["SUSPECT: Layer 0: L0_E2 looks broken, for 2 checkpoints"],
    ]
    assert loop.returned == []


# ---- resume ----------------------------------------------------------------------------------


def resumed(loop: Loop, **options: Any) -> Loop:
    """Return a loop built anew from the first one's state, through JSON where it is plain."""
    state = {
        "lifecycle": loop.c.state_dict(),
        "recorder": loop.recorder.state_dict(),
        "controller": loop.controller.state_dict(),
        "lenses": {str(i): lens.state() for i, lens in loop.lenses.items()},
    }
    plain, tensors = pack(state)
    state = unpack(json.loads(json.dumps(plain)), {k: v.clone() for k, v in tensors.items()})
    population = [layer.num_experts for layer in loop.layers]
    other = Loop(loop.c.config, population=population, **options)
    other.model.load_state_dict(loop.model.state_dict())
    moments = optimizer_tensors(loop.model, loop.optimizer)
    load_optimizer_tensors(other.model, other.optimizer, moments)
    other.c.load_state_dict(state["lifecycle"])
    other.recorder.load_state_dict(state["recorder"])
    other.controller.load_state_dict(state["controller"])
    for i, lens in other.lenses.items():
        lens.load_state(state["lenses"][str(i)])
    other.step, other.losses = loop.step, list(loop.losses)
    return other


@pytest.mark.parametrize("wait", [0, 1, 2 * EVERY + 1])
def test_a_run_goes_on_as_if_it_had_never_stopped(wait: int) -> None:
    """A birth that waits, one that has just come in, and one before its release."""
    config = eager(
        split_enabled=True,
        spawn_enabled=True,
        spawn_entropy_threshold=0.05,
        split_release_shock=1e-6,
        split_release_limit=4,
    )
    loop = hogging(config)
    loop.until("SPLIT")
    for step in range(wait):
        loop.train(1)
        if (step + 1) % EVERY == 0:
            snapshot = loop.snapshot()
            loop.c.evaluate(snapshot, loop.controller.update(snapshot, loop.lenses))
    other = resumed(loop)
    assert len(other.c.ledger.pending) == len(loop.c.ledger.pending)
    if not wait:
        assert other.c.ledger.pending
    for each in (loop, other):
        each.train(-each.step % EVERY)
        each.snapshot()
        each.beats(5)
    assert other.losses == loop.losses
    for name in ("decisions", "evaluations", "transitions", "basins"):
        mine, theirs = getattr(other.logs, name), getattr(loop.logs, name)
        new = [r for r in mine if r.get("reason") != "initial"]
        assert new or name == "decisions"
        assert theirs[len(theirs) - len(new) :] == new
    assert pack(other.c.state_dict())[0] == pack(loop.c.state_dict())[0]
    for name, value in loop.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


# ---- a model that is not ours ----------------------------------------------------------------


class ForeignLayer(nn.Module):
    """Linear experts under a top-1 router; it offers the population protocol and no more."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.top_k = 1
        self.rows = nn.Parameter(0.5 * torch.randn(experts, width))
        self.kernel = nn.Parameter(0.2 * torch.randn(experts, width, width))
        self.bias = nn.Parameter(torch.zeros(experts, width))
        self.register_buffer("offset", torch.zeros(experts))
        self.observer: Any = None

    @property
    def num_experts(self) -> int:
        return len(self.rows)

    def slot_tensors(self) -> dict[str, Tensor]:
        return {
            "router.weight": self.rows,
            "router.logit_offset": self.offset,
            "kernel": self.kernel,
            "bias": self.bias,
        }

    def set_slot_tensors(self, tensors: Any) -> None:
        self.rows, self.offset = tensors["router.weight"], tensors["router.logit_offset"]
        self.kernel, self.bias = tensors["kernel"], tensors["bias"]

    def forward(self, x_TD: Tensor, layer_id: int) -> Tensor:
        logits_TE = x_TD @ self.rows.t() + self.offset
        probs_TE = logits_TE.softmax(-1)
        gate_T, index_T = probs_TE.max(-1)
        if self.training and self.observer is not None:
            counts_E = torch.bincount(index_T, minlength=self.num_experts)
            routing = Routing(
                x_TD, logits_TE, probs_TE, index_T[None], gate_T[None], None, counts_E
            )
            self.observer(layer_id, routing.detach())
        y_TD = torch.einsum("td,tdf->tf", x_TD, self.kernel[index_T]) + self.bias[index_T]
        return x_TD + gate_T[:, None] * F.gelu(y_TD)


class ForeignModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.first, self.second = ForeignLayer(4, WIDTH), ForeignLayer(4, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def moe_layers(self) -> list[ForeignLayer]:
        return [self.first, self.second]

    def forward(self, tokens_BS: Tensor) -> Tensor:
        x_TD = self.embedding(tokens_BS).flatten(0, 1)
        for layer_id, layer in enumerate(self.moe_layers()):
            x_TD = layer(x_TD, layer_id)
        return self.head(x_TD)


class ForeignRun:
    """What a stranger's training loop looks like, with or without a recorder."""

    def __init__(self, config: LifecycleConfig, *, recorded: bool) -> None:
        self.model = ForeignModel()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.recorder = (
            RoutingRecorder([4, 4], 1, EVERY, "cpu", TelemetryConfig(), VOCAB) if recorded else None
        )
        self.counts = [torch.zeros(4), torch.zeros(4)]
        self.c = LifecycleCoordinator(
            None,
            self.model,
            config,
            optimizer=self.optimizer,
            recorder=self.recorder,
            probe=self.probe if recorded else None,
        )
        for layer in self.model.moe_layers():
            layer.observer = self.observe
        self.step = 0

    def observe(self, layer_id: int, routing: Routing) -> None:
        counts_E = routing.tokens_per_expert_E
        if len(self.counts[layer_id]) != len(counts_E):
            self.counts[layer_id] = torch.zeros(len(counts_E))
        self.counts[layer_id] += counts_E
        if self.recorder is not None:
            self.recorder.observe(layer_id, routing)
            self.c.observe(layer_id, routing)

    def loss(self, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self.model(tokens[:, :-1]), tokens[:, 1:].flatten())

    @torch.no_grad()
    def probe(self, step: int) -> float:
        self.model.eval()
        loss = float(self.loss(batch(10_000 + step, 8)))
        self.model.train()
        return loss

    def beat(self) -> list[LifecycleDecision]:
        for _ in range(EVERY):
            tokens = batch(self.step)
            if self.recorder is not None:
                self.recorder.begin_step(tokens[:, :-1])
            loss = self.loss(tokens)
            assert math.isfinite(float(loss.detach()))
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            if self.recorder is not None:
                self.recorder.end_step(self.step, loss)
        if self.recorder is not None:
            window = self.recorder.flush()
            snapshot = SystemSnapshot.from_window(window, self.step, 0.0, None, "", "foreign")
        else:
            shares = [(c / c.sum()).numpy() for c in self.counts]
            layers = [
                LayerSnapshot.from_shares(i, s, token_entropy_nats=1.3)
                for i, s in enumerate(shares)
            ]
            snapshot = SystemSnapshot(self.step, 0.0, 0.0, None, layers)
            self.counts = [torch.zeros_like(c) for c in self.counts]
        return self.c.evaluate(snapshot, [])

    def check(self) -> None:
        grouped = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in self.model.parameters())
        for layer_id, layer in enumerate(self.model.moe_layers()):
            n = len(self.c.registry.slots(layer_id))
            assert all(len(t) == n for t in layer.slot_tensors().values())


def test_a_foreign_model_is_pruned_and_split() -> None:
    run = ForeignRun(eager(prune_enabled=True, split_enabled=True), recorded=True)
    run.model.first.offset[2] = -40.0
    run.model.second.offset[1] = 4.0
    apart: list[Tensor] = []
    for _ in range(14):
        run.beat()
        run.check()
        for pending in run.c.ledger.pending:
            assert pending.parts.newborn.plane is None
            apart.append(
                pending.parts.newborn.saved.values["router.weight"] - run.model.second.rows[1]
            )
    # Along a plane's normal, by a fraction of the row: an equal row would get all tokens or none.
    step = run.c.config.split_router_delta * run.model.second.rows[1].norm()
    assert apart[0].norm().item() == pytest.approx(step.item(), rel=0.5)
    done = {d.action: d for d in run.c.decisions}
    assert {"PRUNE", "SPLIT"} <= done.keys()
    pruned = next(d for d in run.c.decisions if d.action == "PRUNE")
    assert pruned.receipt["probe_shock"] == 0.0
    assert pruned.receipt["output_change"] is None
    split = next(d for d in run.c.decisions if d.action == "SPLIT")
    assert (split.layer_id, split.parent_id) == (1, "L1_E1")
    # It knows no twins: the child ramps in, and takes the parent's tokens beyond a plane.
    assert not run.c.registry.twins
    assert not run.c.ledger.ramps
    entries = run.c.registry[split.expert_id].basin.entries
    assert max(entry.share for entry in entries) > 0.1
    assert run.c.registry["L1_E1"].basin.entries[-1].share > 0.0


def test_a_foreign_model_is_governed_by_snapshots_alone() -> None:
    config = eager(prune_enabled=True, spawn_enabled=True, spawn_entropy_threshold=0.9)
    run = ForeignRun(config, recorded=False)
    run.model.first.offset[2] = -40.0
    for _ in range(8):
        run.beat()
        run.check()
    actions = [d.action for d in run.c.decisions]
    assert "PRUNE" in actions
    assert "SPAWN" in actions
    assert run.c.registry["L0_E2"].state is ExpertState.archived


def test_a_foreign_merge_matches_by_what_training_saw() -> None:
    """Without a spy the probe tells a loss only; the newest training forward has the routing."""
    run = ForeignRun(eager(merge_enabled=True), recorded=True)
    layer = run.model.first
    with torch.no_grad():
        layer.kernel[1] = layer.kernel[0]
    run.beat()
    shares = run.c.registry["L0_E0"].basin.entries[-1].share, 0.0
    c = Candidate(
        Action.MERGE, 0, "L0_E0", "converged", 1, partner_id="L0_E1",
        metrics={"share": shares[0], "partner_share": shares[1]},
    )  # fmt: skip
    routing = run.c.tap.routing[0]
    wanted = int(torch.isin(routing.expert_index_KT, torch.tensor([0, 1])).sum())
    verdict = Verdict(c, Status.executed, seq=0)
    run.c.population.carry_out(c, make_decision(verdict, run.step, "", run.c.config, []))
    logits_TE = routing.x_TD @ layer.rows.t() + layer.offset
    # Equal tokens have equal inputs: the count nearest to the wanted one.
    assert abs(int((logits_TE.argmax(1) == 0).sum()) - wanted) <= 2
