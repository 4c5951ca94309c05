"""Stress in a real training run: it is felt where it should be, and logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import NANO, Chronorun
from integration.test_train import assert_same_run, cut_back


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stressed_run(
    chronorun: Chronorun, tmp_path: Path, *extra: str, start: int = 20, steps: int = 60
) -> Path:
    timing = (
        f"scenario.start_step={start}",
        "scenario.duration=20",
        f"training.max_steps={steps}",
    )
    done = chronorun("train", *NANO, *timing, *extra, "run_id=s")
    assert done.returncode == 0, done.stderr
    return tmp_path / "outputs" / "s"


def shares(run: Path, layer: int) -> dict[int, list[float]]:
    return {
        row["step"]: row["layers"][layer]["utilization_shares"]
        for row in records(run / "snapshots.jsonl")
    }


def events(run: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["event"]) for row in records(run / "scenario_events.jsonl")]


def test_a_dead_expert_gets_nothing_while_it_is_held_down(
    chronorun: Chronorun, tmp_path: Path
) -> None:
    run = stressed_run(chronorun, tmp_path, "scenario=dead_expert", "scenario.expert=3")
    assert events(run) == [(20, "start"), (40, "end")]
    seen = shares(run, 0)
    assert [seen[step][3] == 0 for step in (20, 30, 40)] == [False, True, True]
    assert seen[60][3] > 0
    assert shares(run, 1)[30][3] > 0


@pytest.mark.parametrize("governance", ["default", pytest.param("off", marks=pytest.mark.whole)])
def test_collapse_raises_pressure_and_lens_and_recovery_is_measured(
    chronorun: Chronorun, tmp_path: Path, governance: str
) -> None:
    run = stressed_run(
        chronorun,
        tmp_path,
        "scenario=collapse",
        "scenario.severity=moderate",
        "governance.lens_warmup_steps=0" if governance == "default" else "governance=off",
        start=100,
        steps=300,
    )
    assert events(run)[:2] == [(100, "start"), (120, "end")]
    surface = json.loads((run / "resilience.json").read_text(encoding="utf-8"))["surfaces"][0]
    assert "recovery_checkpoints" in surface
    assert surface["lowest_n_effective"] < 0.7 * surface["baseline_n_effective"]
    assert surface["points"][-1]["n_effective"] > 1.2 * surface["lowest_n_effective"]
    scale = {point["step"]: point["lens_scale"] for point in surface["points"]}
    if governance == "off":
        assert set(scale.values()) == {0.0}
    else:
        peak = max(value for step, value in scale.items() if step > 100)
        assert peak > 3 * scale[100]
        assert scale[300] < 0.5 * peak


def test_a_corrupted_expert_changes_the_run_only_while_it_lasts(
    chronorun: Chronorun, tmp_path: Path
) -> None:
    run = stressed_run(chronorun, tmp_path, "scenario=corrupted_expert")
    plain = chronorun("train", *NANO, "training.max_steps=60", "run_id=plain")
    assert plain.returncode == 0, plain.stderr
    loss = [
        {row["step"]: row["train/loss"] for row in records(folder / "metrics.jsonl")}
        for folder in (run, tmp_path / "outputs" / "plain")
    ]
    assert loss[0][20] == loss[1][20]
    assert loss[0][25] != loss[1][25]
    assert events(run) == [(20, "start"), (40, "end")]


def test_domains_shift_and_return(chronorun: Chronorun, tmp_path: Path) -> None:
    run = stressed_run(
        chronorun,
        tmp_path,
        "scenario=domain_shift",
        "scenario.shift_from=domain0",
        "scenario.shift_to=domain1",
        "scenario.shift_back=true",
    )
    assert events(run) == [(20, "start"), (40, "end")]


def test_a_domain_that_is_not_there_is_refused(chronorun: Chronorun) -> None:
    done = chronorun("train", *NANO, "scenario=domain_shift", "scenario.start_step=5")
    assert done.returncode == 2
    assert "domain=prose, expected one of domain0, domain1" in done.stderr


def test_capacity_whiplash_changes_top_k_and_drops_tokens(
    chronorun: Chronorun, tmp_path: Path
) -> None:
    run = stressed_run(chronorun, tmp_path, "scenario=capacity_whiplash", "scenario.layer=-1")
    per_step = {
        row["step"]: row["token_count"]
        for row in records(run / "routing_events.jsonl")
        if row["layer_id"] == 0
    }
    tokens = 4 * 64
    assert all(per_step[step] <= tokens for step in range(21, 41))
    assert all(tokens < per_step[step] <= 2 * tokens for step in (15, 45))


def test_priors_of_one_run_start_another(chronorun: Chronorun, tmp_path: Path) -> None:
    first = stressed_run(chronorun, tmp_path, "scenario=collapse", "governance.lens_warmup_steps=0")
    done = chronorun(
        "train", *NANO, "training.max_steps=10", f"governance.priors_from={first}", "run_id=next"
    )
    assert done.returncode == 0, done.stderr
    done = chronorun("train", *NANO, "governance.priors_from=nowhere", "run_id=none")
    assert done.returncode == 2
    assert "priors: nowhere does not exist" in done.stderr


def decisions(run: Path, action: str) -> list[dict[str, Any]]:
    path = run / "lifecycle_decisions.jsonl"
    return [row for row in records(path) if row["action"] == action] if path.exists() else []


@pytest.mark.parametrize(
    ("kind", "lifecycle", "stop"),
    [
        pytest.param("planted_redundancy", "off", 17, marks=pytest.mark.whole),
        ("planted_redundancy", "aggressive", 34),
        pytest.param("planted_two_mode", "off", 34, marks=pytest.mark.whole),
        pytest.param("planted_two_mode", "aggressive", 17, marks=pytest.mark.whole),
    ],
)
def test_a_plant_survives_a_resume_bit_equal(
    chronorun: Chronorun, tmp_path: Path, kind: str, lifecycle: str, stop: int
) -> None:
    options = (f"scenario={kind}", "scenario.start_step=20", f"lifecycle={lifecycle}")
    if lifecycle != "off":
        options = (*options, "lifecycle.lifecycle_warmup_steps=0")
    keep = (f"training.checkpoint_interval={stop}", "training.keep_last=9")
    done = chronorun("train", *NANO, *options, *keep, "run_id=whole")
    assert done.returncode == 0, done.stderr
    whole, cut = tmp_path / "outputs" / "whole", tmp_path / "outputs" / "cut"
    cut_back(whole, cut, stop)
    done = chronorun("train", f"resume={cut}")
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, cut)
    assert records(whole / "scenario_events.jsonl") == records(cut / "scenario_events.jsonl")
    assert events(cut) == [(20, "planted")]
    if lifecycle == "off":
        population = json.loads((cut / "summary.json").read_text(encoding="utf-8"))["population"]
        assert population == {"0": 8 - (kind == "planted_two_mode"), "1": 8}


def test_a_two_mode_plant_off_the_windows_is_refused(chronorun: Chronorun) -> None:
    done = chronorun("train", *NANO, "scenario=planted_two_mode", "scenario.start_step=25")
    assert done.returncode == 2
    assert "choose 20 or 30" in done.stderr


def test_a_bad_edit_without_a_lifecycle_is_refused(chronorun: Chronorun) -> None:
    done = chronorun("train", *NANO, "scenario=bad_edit", "scenario.start_step=5")
    assert done.returncode == 2
    assert "lifecycle.enabled=False, expected True for scenario=bad_edit" in done.stderr


LIVING = ("data=synthetic", "model=nano", "training.threads=1", "tracking=no_wandb", "run_id=s")
LATE = ("scenario.start_step=320", "training.max_steps=500")
"""Where the learning rate is low: earlier, twins soon grow apart and load is balanced away."""


@pytest.mark.whole
def test_a_lifecycle_merges_the_planted_twins(chronorun: Chronorun, tmp_path: Path) -> None:
    actions = ("lifecycle/spawn=off", "lifecycle/split=off", "lifecycle/prune=off")
    what = ("scenario=planted_redundancy", "lifecycle=aggressive", *actions)
    done = chronorun("train", *LIVING, *what, *LATE)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / "s"
    assert events(run) == [(320, "planted")]
    merges = decisions(run, "MERGE")
    assert [(row["expert_id"], row["partner_id"]) for row in merges] == [("L0_E0", "L0_E1")]


@pytest.mark.whole
def test_a_lifecycle_splits_the_planted_expert_of_two_modes(
    chronorun: Chronorun, tmp_path: Path
) -> None:
    actions = ("lifecycle/spawn=off", "lifecycle/merge=off", "lifecycle/prune=off")
    what = ("scenario=planted_two_mode", "lifecycle=aggressive", *actions)
    # Only what comes after the plant: in a young model splits come by themselves. Training takes
    # some of the load away at once, how much depends on the two that were merged.
    limits = ("lifecycle.lifecycle_warmup_steps=330", "lifecycle.split_share_ratio=1.2")
    done = chronorun("train", *LIVING, *what, *limits, *LATE)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / "s"
    assert events(run) == [(320, "planted")]
    survivor = records(run / "scenario_events.jsonl")[0]["expert_id"]
    assert survivor in [row["parent_id"] for row in decisions(run, "SPLIT")]


@pytest.mark.whole
def test_a_lifecycle_takes_a_bad_edit_back(chronorun: Chronorun, tmp_path: Path) -> None:
    what = ("scenario=bad_edit", "scenario.start_step=0", "lifecycle=aggressive")
    done = chronorun("train", *LIVING, *what, "training.max_steps=360")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / "s"
    start, end = records(run / "scenario_events.jsonl")
    rollbacks = decisions(run, "ROLLBACK")
    assert (end["event"], end["reason"], end["seq"]) == ("end", "gone", start["seq"])
    assert (rollbacks[0]["undoes"], rollbacks[0]["step"]) == (start["seq"], end["step"])
