"""Stress in a real training run: it is felt where it should be, and logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import NANO, Chronorun


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stressed_run(
    chronorun: Chronorun, tmp_path: Path, *extra: str, start: int = 20, steps: int = 80
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


@pytest.mark.parametrize("governance", ["default", "off"])
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
    plain = chronorun("train", *NANO, "training.max_steps=80", "run_id=plain")
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
