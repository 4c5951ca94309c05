"""Scenarios on a bare model: what is in force is a pure function of the step."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.run import RunConfig
from chronorun.config.scenario import ScenarioConfig, ScenarioKind, Severity
from chronorun.data import TokenizedCorpus
from chronorun.errors import UserError
from chronorun.governance import ControlDecision
from chronorun.lifecycle import LifecycleDecision
from chronorun.lifecycle.edit.saved import Edit
from chronorun.lifecycle.edit.surgery import Surgeon
from chronorun.lifecycle.edit.trial import trial
from chronorun.lifecycle.edit.update_guard import UpdateGuard
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.model import GPT, MoELayer
from chronorun.telemetry import LayerSnapshot, SystemSnapshot
from chronorun.training.scenarios import Scenario, build_scenario, force_routing

VOCAB, START, END = 32, 10, 14


def make_model() -> GPT:
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=16, num_experts=4)
    return GPT(config, RouterConfig(), VOCAB, generator=torch.Generator().manual_seed(0))


def make_scenario(
    model: GPT, kind: str, seed: int = 0, heartbeat: Any = None, **options: Any
) -> Scenario:
    options = {"start_step": START, "duration": END - START} | options
    run = RunConfig(
        seed=seed,
        run_id="r",
        model=model_config(model),
        scenario=ScenarioConfig(kind=ScenarioKind(kind), **options),
    )
    if kind == "bad_edit":
        run.lifecycle.enabled = True
    return build_scenario(run, model, corpus_of("prose", "code"), heartbeat)


def model_config(model: GPT) -> ModelConfig:
    return ModelConfig(num_experts=model.moe_layers()[0].num_experts)


def corpus_of(*domains: str) -> TokenizedCorpus:
    def domain_tokens(domain: str) -> range:
        if domain not in domains:
            raise UserError(f"data: domain={domain}")
        return range(1000)

    split = SimpleNamespace(domain_tokens=domain_tokens)
    return cast(TokenizedCorpus, SimpleNamespace(split=lambda name: split))


def batch() -> Tensor:
    return torch.randint(VOCAB, (4, 16), generator=torch.Generator().manual_seed(3))


def logits_at(scenario: Scenario, model: GPT, step: int) -> Tensor:
    scenario.before_step(step)
    with torch.no_grad():
        return model(batch()).logits.clone()


STRESSES = ["collapse", "dead_expert", "corrupted_expert", "capacity_whiplash"]


@pytest.mark.parametrize("kind", STRESSES)
def test_a_stress_changes_the_model_only_while_it_lasts(kind: str) -> None:
    model = make_model()
    scenario = make_scenario(model, kind, severity=Severity.mild, duration=10)
    calm = logits_at(scenario, model, START - 1)
    assert not torch.equal(logits_at(scenario, model, START), calm)
    assert not torch.equal(logits_at(scenario, model, START + 9), calm)
    assert torch.equal(logits_at(scenario, model, START + 10), calm)


@pytest.mark.parametrize("kind", STRESSES)
@pytest.mark.parametrize("stop", [START - 1, START, START + 2, END - 1, END])
def test_a_resumed_stress_is_the_one_never_stopped(kind: str, stop: int) -> None:
    whole = make_model()
    scenario = make_scenario(whole, kind, severity=Severity.mild)
    for step in range(stop + 1):
        scenario.before_step(step)
    saved = msgspec.json.decode(msgspec.json.encode(scenario.state_dict()))
    resumed = make_model()
    resumed.load_state_dict(whole.state_dict())
    again = make_scenario(resumed, kind, severity=Severity.mild)
    again.load_state_dict(saved)
    for step in range(stop + 1, END + 10):
        assert again.before_step(step) == scenario.before_step(step)
        with torch.no_grad():
            assert torch.equal(whole(batch()).logits, resumed(batch()).logits), step


@pytest.mark.parametrize("kind", [*STRESSES, "domain_shift", "none"])
def test_a_scenario_draws_no_global_random_number(kind: str) -> None:
    model = make_model()
    before = torch.get_rng_state()
    scenario = make_scenario(model, kind)
    for step in (START, START + 1, END):
        logits_at(scenario, model, step)
    assert torch.equal(before, torch.get_rng_state())


def test_start_and_end_are_said_once_with_what_and_where() -> None:
    scenario = make_scenario(make_model(), "dead_expert", expert=2, layer=1)
    records = [record for step in range(20) for record in scenario.before_step(step)]
    what = {"scenario": "dead_expert", "layers": [1], "expert": 2, "expert_id": "L1_E2"}
    what |= {"logit_offset": -20.0}
    assert records == [
        {"step": START, "event": "start", **what},
        {"step": END, "event": "end", **what},
    ]


def test_layer_minus_one_means_every_layer() -> None:
    model = make_model()
    records = make_scenario(model, "dead_expert", layer=-1).before_step(START)
    assert [(r["layers"], r["expert_id"]) for r in records] == [([0], "L0_E0"), ([1], "L1_E0")]
    for layer in model.moe_layers():
        assert layer.route(torch.randn(500, 16))[0].tokens_per_expert_E[0] == 0


def test_a_dead_expert_leaves_no_trace_in_the_model() -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    scenario = make_scenario(model, "dead_expert")
    for step in (START, END):
        scenario.before_step(step)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(layer.routing_override is None for layer in model.moe_layers())


def test_a_dead_expert_is_held_down_as_by_an_offset_of_the_router() -> None:
    """Bit for bit, in the loss and in every gradient."""
    figures = []
    for by_offset in (True, False):
        model = make_model()
        if by_offset:
            model.moe_layers()[0].router.logit_offset[2] -= 20.0
        else:
            make_scenario(model, "dead_expert", expert=2).before_step(START)
        out = model(batch(), batch())
        assert out.loss is not None
        (out.loss + 0.01 * out.load_balancing_loss + 0.001 * out.router_z_loss).backward()
        figures.append([out.loss, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*figures, strict=True))


def managed(model: GPT) -> tuple[SimpleNamespace, Surgeon]:
    """Return a heartbeat with as much of a lifecycle as stresses ask for, and its surgeon."""
    layers = model.moe_layers()
    registry = Registry([layer.num_experts for layer in layers])
    guard = UpdateGuard(dict(enumerate(layers)), registry.slot_of, 0)
    lifecycle = SimpleNamespace(registry=registry, decisions=[])
    return SimpleNamespace(lifecycle=lifecycle), Surgeon(layers, registry, guard)


def remove(surgeon: Surgeon, expert_id: str) -> None:
    registry, layer_id = surgeon.registry, surgeon.registry[expert_id].layer_id
    before = registry.slots(layer_id)
    registry.transition(expert_id, ExpertState.pending_prune, START, "test")
    registry.remove(expert_id, START)
    surgeon.apply(Edit(layer_id, before))


def hit_slots(layer: MoELayer) -> list[int]:
    """Return the slots whose outputs the layer's hook changes."""
    if layer.output_hook is None:
        return []
    y_ND, slot_N = torch.ones(layer.num_experts, 16), torch.arange(layer.num_experts)
    return (layer.output_hook(y_ND, slot_N) != y_ND).any(dim=1).nonzero().flatten().tolist()


def silent_slots(layer: MoELayer) -> list[int]:
    """Return the slots that get no token."""
    x_TD = torch.randn(500, 16, generator=torch.Generator().manual_seed(5))
    return (layer.route(x_TD)[0].tokens_per_expert_E == 0).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("kind", "struck"), [("dead_expert", silent_slots), ("corrupted_expert", hit_slots)]
)
def test_a_stress_follows_its_expert_from_slot_to_slot(
    kind: str, struck: Callable[[MoELayer], list[int]]
) -> None:
    model = make_model()
    heartbeat, surgeon = managed(model)
    make_scenario(model, kind, heartbeat=heartbeat, expert=2).before_step(START)
    layer = model.moe_layers()[0]
    assert struck(layer) == [2]
    remove(surgeon, "L0_E1")
    assert struck(layer) == [1]
    remove(surgeon, "L0_E2")
    assert struck(layer) == []


@pytest.mark.parametrize(
    ("keep", "want"), [([1, 2, 3], [1]), ([0, 1, 2], [2]), ([0, 1, 3], []), ([3, 2], [1])]
)
def test_a_stress_strikes_the_right_expert_when_the_probe_tries_without_another(
    keep: list[int], want: list[int]
) -> None:
    model = make_model()
    heartbeat, _ = managed(model)
    make_scenario(model, "corrupted_expert", heartbeat=heartbeat, expert=2).before_step(START)
    layer = model.moe_layers()[0]
    assert hit_slots(layer) == [2]
    with trial(layer, keep):
        assert hit_slots(layer) == want
    assert hit_slots(layer) == [2]


def split_decision(step: int, layer_id: int, expert_id: str, **more: Any) -> LifecycleDecision:
    return LifecycleDecision(
        step, "r", "SPLIT", layer_id, expert_id, None, "overloaded", {}, {}, **more
    )


def test_a_bad_edit_spoils_the_first_split_from_its_start_on_until_it_is_gone() -> None:
    model = make_model().eval()
    heartbeat, surgeon = managed(model)
    decisions = heartbeat.lifecycle.decisions
    scenario = make_scenario(model, "bad_edit", heartbeat=heartbeat, layer=-1, noise=8.0)
    decisions += [
        split_decision(START - 2, 0, "L0_E0", integrated_step=START - 1, seq=3),
        split_decision(START, 1, "L1_E3", seq=4),
        LifecycleDecision(START, "r", "SPAWN", 0, "L0_E1", None, "", {}, {}, integrated_step=START),
    ]
    assert scenario.before_step(START) == []
    decisions += [
        split_decision(START, 1, "L1_E3", integrated_step=START, seq=4),
        split_decision(START, 0, "L0_E2", integrated_step=START, seq=5),
    ]
    what = {"scenario": "bad_edit", "layers": [1], "expert_id": "L1_E3", "seq": 4}
    first, second = model.moe_layers()
    assert scenario.before_step(START + 1) == [
        {"step": START + 1, "event": "start", **what, "noise": 8.0}
    ]
    assert (hit_slots(first), hit_slots(second)) == ([], [3])
    second.train()
    assert hit_slots(second) == []
    second.eval()

    saved = msgspec.json.decode(msgspec.json.encode(scenario.state_dict()))
    again = make_scenario(model, "bad_edit", heartbeat=heartbeat, layer=-1, noise=8.0)
    second.output_hook = None
    again.load_state_dict(saved)
    assert again.before_step(START + 2) == []
    assert hit_slots(second) == [3]

    remove(surgeon, "L1_E3")
    assert again.before_step(START + 3) == [
        {"step": START + 3, "event": "end", **what, "reason": "gone"}
    ]
    assert second.output_hook is None
    assert again.before_step(START + 4) == []


def test_a_bad_edit_that_nobody_undoes_ends_by_itself() -> None:
    model = make_model()
    heartbeat, _ = managed(model)
    heartbeat.lifecycle.decisions.append(split_decision(START, 0, "L0_E2", integrated_step=START))
    scenario = make_scenario(model, "bad_edit", heartbeat=heartbeat)
    records = [record for step in range(START, 30) for record in scenario.before_step(step)]
    assert [(r["step"], r["event"]) for r in records] == [(START, "start"), (END, "end")]
    assert records[1]["reason"] == "duration"


@pytest.mark.parametrize(
    ("name", "value", "expected", "next_step"),
    [
        ("enabled", False, True, "add lifecycle=aggressive"),
        ("dry_run", True, False, "add lifecycle=aggressive"),
        ("split_enabled", False, True, "add lifecycle/split=eager"),
    ],
)
def test_a_bad_edit_needs_a_lifecycle_that_splits(
    name: str, value: bool, expected: bool, next_step: str
) -> None:
    run = RunConfig(scenario=ScenarioConfig(kind=ScenarioKind.bad_edit))
    run.lifecycle.enabled = True
    setattr(run.lifecycle, name, value)
    message = (
        f"scenario: lifecycle.{name}={value}, expected {expected} for scenario=bad_edit, which "
        f"waits for a split; {next_step}"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        build_scenario(run, make_model(), corpus_of())


def test_a_dead_expert_is_chosen_by_no_token() -> None:
    model = make_model()
    make_scenario(model, "dead_expert", expert=2).before_step(START)
    layer = model.moe_layers()[0]
    routing = layer.route(torch.randn(500, 16))[0]
    assert routing.tokens_per_expert_E[2] == 0
    assert (routing.tokens_per_expert_E > 0).sum() == 3


@pytest.mark.parametrize("severity", list(Severity))
def test_collapse_sends_the_severitys_share_to_two_experts(severity: Severity) -> None:
    model = make_model()
    scenario = make_scenario(model, "collapse", severity=severity)
    record = scenario.before_step(START)[0]
    ratio = record["pathology"]["concentration_ratio"]
    layer = model.moe_layers()[0]
    logits_TE = torch.randn(4096, 4, generator=torch.Generator().manual_seed(1))
    assert layer.routing_override is not None
    forced = layer.routing_override(logits_TE) != logits_TE
    assert forced[:, 2:].all(dim=1).float().mean().item() == pytest.approx(ratio, abs=2e-3)
    assert not forced[:, :2].any()
    end = START + record["pathology"]["injection_duration"]
    assert scenario.before_step(end - 1) == []
    assert [event["event"] for event in scenario.before_step(end)] == ["end"]
    assert layer.routing_override is None


def test_forced_tokens_choose_dominant_experts_by_their_own_preference() -> None:
    logits_TE = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    forced_TE = force_routing(logits_TE, 1.0, 3)
    assert torch.equal(forced_TE.argmax(-1), logits_TE[:, :3].argmax(-1))
    assert (forced_TE.softmax(-1)[:, 3:] < 1e-15).all()


def test_forced_routing_does_not_inflate_the_z_loss() -> None:
    logits_TE = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    forced_TE = force_routing(logits_TE, 1.0, 2)
    assert (forced_TE.logsumexp(-1) < logits_TE.logsumexp(-1)).all()


@pytest.mark.parametrize("n", [1, 2])
def test_a_population_of_dominant_experts_only_is_left_alone(n: int) -> None:
    logits_TE = torch.randn(50, n)
    assert torch.equal(force_routing(logits_TE, 1.0, 2), logits_TE)


def test_noise_hits_one_expert_with_the_size_asked_for() -> None:
    model = make_model()
    make_scenario(model, "corrupted_expert", expert=1, noise=0.5).before_step(START)
    hook = model.moe_layers()[0].output_hook
    assert hook is not None
    y_ND, slot_N = torch.randn(8000, 16), torch.arange(8000) % 4
    change_ND = hook(y_ND, slot_N) - y_ND
    assert not change_ND[slot_N != 1].any()
    rms = y_ND.square().mean(-1, keepdim=True).sqrt()
    assert (change_ND / rms)[slot_N == 1].std().item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("seed", [0, 2**62])
def test_noise_differs_by_step_and_seed_only(seed: int) -> None:
    def change(seed: int, step: int) -> Tensor:
        model = make_model()
        make_scenario(model, "corrupted_expert", seed=seed).before_step(step)
        hook = model.moe_layers()[0].output_hook
        assert hook is not None
        return hook(torch.ones(5, 16), torch.zeros(5))

    assert torch.equal(change(seed, START), change(seed, START))
    assert not torch.equal(change(seed, START), change(seed, START + 1))
    assert not torch.equal(change(seed, START), change(seed + 1, START))


@pytest.mark.parametrize(
    ("back", "want"), [(False, ["prose", "code", "code"]), (True, ["prose", "code", "prose"])]
)
def test_domains_shift_and_return_if_asked(back: bool, want: list[str]) -> None:
    scenario = make_scenario(make_model(), "domain_shift", shift_back=back)
    mixes = [scenario.domain_weights(step) for step in (START - 1, START, END)]
    assert mixes == [{domain: 1.0} for domain in want]
    records = [record for step in range(20) for record in scenario.before_step(step)]
    assert [(r["step"], r["event"]) for r in records] == [(START, "start"), (END, "end")][
        : 1 + back
    ]
    assert records[0]["layers"] == []
    assert (records[0]["from"], records[0]["to"]) == ("prose", "code")


def test_capacity_and_top_k_go_down_and_come_back() -> None:
    model = make_model()
    scenario = make_scenario(model, "capacity_whiplash")
    layer, other = model.moe_layers()
    seen = []
    for step in (START - 1, START, END - 1, END):
        scenario.before_step(step)
        seen.append((layer.top_k, layer.capacity_factor))
    assert seen == [(2, 1.25), (1, 1.0), (1, 1.0), (2, 1.25)]
    assert other.capacity_factor is None


def shot(step: int, *even: bool) -> SystemSnapshot:
    rows = [[0.25] * 4 if layer else [0.5, 0.5, 0.0, 0.0] for layer in even]
    layers = [LayerSnapshot.from_shares(i, np.array(row)) for i, row in enumerate(rows)]
    return SystemSnapshot(step, 0.0, 2.0, 2.1, layers, [], "r", "m")


def decision(step: int, layer_id: int, pressure: float) -> ControlDecision:
    return ControlDecision(
        "r", step, layer_id, {}, {"pressure": pressure}, {"lens_scale": pressure / 2}, {}
    )


def test_recovery_is_measured_said_once_and_written(tmp_path: Path) -> None:
    scenario = make_scenario(make_model(), "collapse", severity=Severity.mild)
    said = []
    for step, even in ((5, True), (10, True), (15, False), (20, False), (25, False), (30, True)):
        said += scenario.after_checkpoint(
            step, shot(step, even, True), [decision(step, 0, 0.0 if even else 0.3)]
        )
    assert said == [
        {
            "step": 30,
            "scenario": "collapse",
            "event": "recovered",
            "layers": [0],
            "recovery_checkpoints": 2,
            "recovery_steps": 10,
        }
    ]
    assert scenario.after_checkpoint(35, shot(35, True, True), []) == []
    scenario.finish(tmp_path)
    surface = json.loads((tmp_path / "resilience.json").read_text(encoding="utf-8"))["surfaces"][0]
    assert surface["baseline_n_effective"] == pytest.approx(4.0)
    assert (surface["peak_pressure"], surface["peak_lens_scale"]) == (0.3, 0.15)
    assert [point["phase"] for point in surface["points"]] == [
        *["baseline"] * 2,
        *["injection"] * 2,
        *["recovery"] * 3,
    ]


def test_the_trajectory_survives_a_resume() -> None:
    first = make_scenario(make_model(), "collapse", severity=Severity.mild, layer=-1)
    for step, even in ((10, True), (20, False), (30, True)):
        first.after_checkpoint(step, shot(step, even, even), [])
    second = make_scenario(make_model(), "collapse", severity=Severity.mild, layer=-1)
    second.load_state_dict(msgspec.json.decode(msgspec.json.encode(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert second.after_checkpoint(40, shot(40, True, True), []) == []


def test_every_probed_layer_gets_a_file(tmp_path: Path) -> None:
    scenario = make_scenario(make_model(), "collapse", layer=-1)
    scenario.finish(tmp_path)
    assert list(tmp_path.iterdir()) == []
    scenario.after_checkpoint(5, shot(5, True, True), [])
    scenario.finish(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "resilience_L0.json",
        "resilience_L1.json",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "dead_expert", "expert": 4},
            r"^scenario: scenario\.expert=4, expected < 4; choose a live expert$",
        ),
        (
            {"kind": "collapse", "layer": 2},
            r"^scenario: scenario\.layer=2, expected < 2 \(MoE layers are counted from 0; "
            r"-1 means all\); choose another layer$",
        ),
        (
            {"kind": "collapse", "start_step": 10**6},
            r"^scenario: scenario\.start_step=1000000, expected < training\.max_steps=\d+; "
            r"the stress would never come$",
        ),
        ({"kind": "domain_shift", "shift_to": "verse"}, r"^data: domain=verse$"),
    ],
)
def test_a_stress_that_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_scenario(make_model(), **options)


def test_collapse_cannot_be_measured_without_telemetry() -> None:
    run = RunConfig(scenario=ScenarioConfig(kind=ScenarioKind.collapse))
    run.telemetry.enabled = False
    with pytest.raises(
        UserError,
        match=r"^scenario: telemetry\.enabled=False, expected True for scenario=collapse, which "
        r"measures the recovery with it; drop telemetry=off$",
    ):
        build_scenario(run, make_model(), corpus_of())
