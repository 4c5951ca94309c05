"""Every public name of v2's governance: where it is, how it is called, what it starts with."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chronorun.governance as governance
import chronorun.telemetry as telemetry
from chronorun.governance import (
    ChronoLens,
    ControlConfig,
    Controller,
    ControlState,
    IdentityLens,
    LayerPriors,
    LensState,
    PathologyProbe,
    RecoveryTrajectory,
    ResilienceSurface,
    SteeringMode,
    compute_lens_scale,
    update_control_state,
)
from chronorun.telemetry import LayerSnapshot, SystemSnapshot

NEEDED = inspect.Parameter.empty
SIGNATURES: dict[str, dict[str, Any]] = {
    "lens.LensState": {
        "step": NEEDED,
        "mode": NEEDED,
        "pressure": 0.0,
        "heat": 0.0,
        "forgetting": 0.0,
        "layer_metrics": None,
        "meta": None,
    },
    "lens.ChronoLens": {"d_model": NEEDED, "rank": 8, "layer_id": 0},
    "lens.IdentityLens": {"layer_id": 0},
    "lens.compute_lens_aux_loss": {
        "router_probs": NEEDED,
        "target_entropy": 1.386,
        "top2_target": 0.5,
    },
    "policy.compute_topology_debt": {"layer": NEEDED, "config": NEEDED},
    "policy.update_control_state": {
        "state": NEEDED,
        "layer": NEEDED,
        "config": NEEDED,
        "step": NEEDED,
        "prior": None,
    },
    "policy.compute_lens_scale": {"state": NEEDED, "config": NEEDED, "step": 0, "prior": None},
    "controller.Controller": {
        "n_layers": NEEDED,
        "n_experts_per_layer": NEEDED,
        "config": None,
        "output_dir": "outputs",
    },
    "controller.Controller.initialize": {"run_id": NEEDED},
    "controller.Controller.update": {"snapshot": NEEDED, "lenses": None},
    "controller.Controller.get_state": {"layer_id": NEEDED},
    "controller.Controller.get_all_states": {},
    "controller.Controller.get_lens_scales": {"step": 0},
    "decisions.ControlDecision": {
        "run_id": NEEDED,
        "step": NEEDED,
        "layer_id": NEEDED,
        "observed": NEEDED,
        "computed": NEEDED,
        "actuator": NEEDED,
        "emergency": NEEDED,
        "notes": [],
    },
    "priors.save_priors": {"states": NEEDED, "path": NEEDED, "config": NEEDED, "compress": True},
    "priors.load_priors": {"path": NEEDED},
    "priors.apply_priors_to_state": {"state": NEEDED, "prior": NEEDED},
    "probes.PathologyConfig": {
        "severity": NEEDED,
        "concentration_ratio": 0.8,
        "injection_duration": 20,
        "n_dominant": 2,
        "recovery_window": 100,
        "recovery_threshold": 0.1,
    },
    "probes.TrajectoryPoint": dict.fromkeys(
        (
            *("step", "pressure", "lens_scale", "n_effective"),
            *("top2_share", "dead_count", "phase"),
        ),
        NEEDED,
    ),
    "probes.RecoveryTrajectory": {
        **dict.fromkeys(("model_name", "run_id", "layer_id", "severity", "config"), NEEDED),
        "points": [],
        "peak_pressure": 0.0,
        "peak_lens_scale": 0.0,
        "min_neff_during_injection": 0.0,
        "steps_to_recovery": -1,
        "recovery_achieved": False,
    },
    "probes.RecoveryTrajectory.add_point": {"point": NEEDED},
    "probes.RecoveryTrajectory.compute_summary": {},
    "probes.RecoveryTrajectory.to_dict": {},
    "probes.ResilienceSurface": {
        **dict.fromkeys(("model_name", "run_id", "layer_id"), NEEDED),
        "trajectories": {},
    },
    "probes.ResilienceSurface.add_trajectory": {"trajectory": NEEDED},
    "probes.ResilienceSurface.get_response_curve": {},
    "probes.ResilienceSurface.to_dict": {},
    "probes.PathologyProbe": {
        "model_name": NEEDED,
        "run_id": NEEDED,
        "output_dir": "outputs",
    },
    "probes.PathologyProbe.start_probe": {"layer_id": NEEDED, "config": NEEDED, "start_step": 0},
    "probes.PathologyProbe.get_phase": {"step": NEEDED},
    "probes.PathologyProbe.should_override_routing": {"step": NEEDED},
    "probes.PathologyProbe.get_routing_override": {"step": NEEDED, "n_experts": NEEDED},
    "probes.PathologyProbe.record_point": dict.fromkeys(
        ("step", "pressure", "lens_scale", "n_effective", "top2_share", "dead_count"), NEEDED
    ),
    "probes.PathologyProbe.end_probe": {},
    "probes.PathologyProbe.get_surface": {"layer_id": NEEDED},
    "probes.PathologyProbe.save": {"filename": "pathology_results.json"},
    "probes.compare_surfaces": {"teacher": NEEDED, "student": NEEDED},
}
CONFIG = {
    "neff_threshold_ratio": 0.6,
    "top2_warning": 0.75,
    "debt_weight_neff": 0.4,
    "debt_weight_top2": 0.4,
    "debt_weight_dead": 0.2,
    "pressure_ema_alpha": 0.2,
    "harm_top2_threshold": 0.02,
    "abstain_backoff_threshold": 0.15,
    "lens_pressure_coeff": 1.0,
    "lens_heat_coeff": 0.0,
    "pressure_cap": 0.5,
    "lens_warmup_steps": 100,
    "lens_warmup_scale": 0.02,
    "lens_scale_max": 0.5,
}


def find(dotted: str) -> Any:
    module, *names = dotted.split(".")
    found: Any = importlib.import_module(f"chronorun.governance.{module}")
    for name in names:
        found = getattr(found, name)
    return found


def defaults_of(called: Any) -> dict[str, Any]:
    """Return the parameters with their defaults, as a caller sees them: factories called."""
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(called).parameters.items()
        if name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    if dataclasses.is_dataclass(called):
        factories = {field.name: field.default_factory for field in dataclasses.fields(called)}
        for name, factory in factories.items():
            if factory is not dataclasses.MISSING:
                parameters[name] = factory()
    return parameters


@pytest.mark.parametrize("dotted", SIGNATURES)
def test_a_name_is_called_as_in_v2(dotted: str) -> None:
    found = defaults_of(find(dotted))
    expected = SIGNATURES[dotted]
    assert list(found.items())[: len(expected)] == list(expected.items())
    ours = list(found.values())[len(expected) :]
    assert NEEDED not in ours


@pytest.mark.parametrize("dotted", [*SIGNATURES, "lens.SteeringMode", "probes.SeverityLevel"])
def test_the_package_exports_what_its_modules_have(dotted: str) -> None:
    name = dotted.split(".")[1]
    assert name in governance.__all__
    assert getattr(governance, name) is find(".".join(dotted.split(".")[:2]))


def test_the_config_holds_every_number_by_its_name() -> None:
    values = dataclasses.asdict(ControlConfig())
    assert {name: values[name] for name in CONFIG} == CONFIG
    # The floor of a mode's score is 0.2: a threshold below it would never be reached.
    assert values["mode_switch_threshold"] > 0.2


def test_states_and_priors_start_as_stated() -> None:
    state = ControlState(layer_id=1, n_experts=4)
    assert {
        name: getattr(state, name)
        for name in ("pressure", "heat", "harm_backoff", "prev_scale", "active_mode", "quota")
    } == {
        "pressure": 0.0,
        "heat": 0.0,
        "harm_backoff": 1.0,
        "prev_scale": 0.0,
        "active_mode": "anti_dominance",
        "quota": None,
    }
    assert (state.layer_id, state.n_experts, state.last_update_step) == (1, 4, 0)
    assert state.dominant is None
    assert set(state.mode_scores) == {"anti_dominance", "entropy_max", "lift_tail"}
    assert {field.name for field in dataclasses.fields(LayerPriors)} == {
        *("layer_id", "fragility", "backoff_bias", "scale_cap", "abstain_threshold"),
        *("intervention_helped_ema", "preferred_mode", "mode_scores"),
    }
    assert [(mode.name, mode.value) for mode in SteeringMode] == [
        ("ANTI_DOMINANCE", "anti_dominance"),
        ("ENTROPY_MAX", "entropy_max"),
        ("LIFT_TAIL", "lift_tail"),
        ("ABSTAIN", "abstain"),
    ]


def test_a_lens_state_is_a_frozen_record() -> None:
    state = LensState(3, "TRAIN", heat=0.5, layer_metrics={0: {"entropy": 1.0}})
    assert dataclasses.astuple(state) == (3, "TRAIN", 0.0, 0.5, 0.0, {0: {"entropy": 1.0}}, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.pressure = 1.0  # type: ignore[misc]


def test_an_identity_lens_says_that_it_does_nothing() -> None:
    lens = IdentityLens(layer_id=2)
    assert isinstance(lens, torch.nn.Module)
    x = torch.randn(2, 3, 8)
    lens.set_scale(999.0)
    assert lens(x) is x
    assert (lens.s, lens.rank, lens.layer_id) == (0.0, 0, 2)
    assert lens.get_norms() == {"u_norm": 0.0, "v_norm": 0.0}
    assert list(lens.parameters()) == []


def test_records_with_defaults_share_nothing() -> None:
    config = governance.PathologyConfig("mild")
    one, other = (RecoveryTrajectory("m", "r", 0, "mild", config) for _ in range(2))
    assert one.points is not other.points
    assert ResilienceSurface("m", "r", 0).trajectories is not (
        ResilienceSurface("m", "r", 0).trajectories
    )


def test_a_control_loop_of_v2_runs_and_logs_v2s_fields(tmp_path: Path) -> None:
    controller = Controller(
        n_layers=2, n_experts_per_layer=[4, 4], config=ControlConfig(), output_dir=str(tmp_path)
    )
    controller.initialize(run_id="r")
    lenses = {0: ChronoLens(d_model=16, rank=8, layer_id=0), 1: IdentityLens(layer_id=1)}
    layers = [
        LayerSnapshot.from_shares(0, np.array([0.5, 0.5, 0.0, 0.0])),
        LayerSnapshot.from_shares(1, np.array([0.5, 0.5, 0.0, 0.0])),
    ]
    alerts = ["PRE_COLLAPSE: Layer 1: ..."]
    shot = SystemSnapshot(200, 0.0, 2.5, 2.8, layers, alerts, "r", "m")
    decisions = controller.update(shot, lenses)
    state = controller.get_state(0)
    update_control_state(state, layers[0], controller.config, 220)
    assert compute_lens_scale(state, controller.config, 220) == state.prev_scale > 0.1
    controller.close()
    norms = lenses[0].get_norms()
    lines = (tmp_path / "r" / "control_decisions.jsonl").read_text(encoding="utf-8").splitlines()
    acted, still = (json.loads(line) for line in lines)
    assert [acted["layer_id"], still["layer_id"]] == [d.layer_id for d in decisions] == [0, 1]
    assert set(acted["observed"]) == {"entropy", "n_effective", "top2_share", "dead_expert_count"}
    assert set(acted["computed"]) >= {
        *("debt", "pressure", "heat", "forgetting", "harm_backoff", "abstain", "abstain_reason"),
        *("active_mode", "mode_scores"),
    }
    assert acted["actuator"] == {
        "lens_scale": lenses[0].s,
        "lens_rank": 8,
        "lens_u_norm": norms["u_norm"],
        "lens_v_norm": norms["v_norm"],
    }
    assert still["actuator"]["lens_u_norm"] == still["actuator"]["lens_rank"] == 0
    assert set(acted["emergency"]) == {"quota_applied", "quota_summary"}
    assert [acted["notes"], still["notes"]] == [[], alerts]


def test_the_packages_say_what_expert_state_means_here() -> None:
    from chronorun.lifecycle import ExpertState

    assert "active" in ExpertState.__members__
    for package in (governance, telemetry):
        assert "ExpertState" in (package.__doc__ or "")
        assert "ExpertState" not in package.__all__


def test_a_probe_of_one_layer_leaves_the_others_alone() -> None:
    probe = PathologyProbe("m", "r")
    for layer_id in (0, 2):
        probe.start_probe(layer_id, governance.PathologyConfig("mild"))
        probe.end_probe()
    assert [probe.get_surface(i) is None for i in range(3)] == [False, True, False]
