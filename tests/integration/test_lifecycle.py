"""The whole chain in real training runs: telemetry, governance, lifecycle, surgery, logs.

Every action here is brought about by its own trigger on a trained model, never by calling surgery.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import NANO, Chronorun, RunOf
from integration.runs import BASE, QUICK, RUNS

from chronorun.analysis.inspect.filters import Filters
from chronorun.analysis.inspect.output import headline_record
from chronorun.analysis.inspect.view import scan_run
from chronorun.analysis.reading.run import Run
from chronorun.training.sampling import load_run_model

LOGS = (
    "metrics",
    "snapshots",
    "control_decisions",
    "lifecycle_decisions",
    "lifecycle_evaluations",
    "expert_transitions",
    "basins",
    "routing_events",
)


def records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in found:
        record.pop("timestamp", None)
    return found


def train(
    chronorun: Chronorun,
    tmp_path: Path,
    run_id: str,
    *overrides: str,
    base: tuple[str, ...] = QUICK,
) -> Path:
    done = chronorun("train", *base, *overrides, f"run_id={run_id}")
    assert done.returncode == 0, done.stderr
    return tmp_path / "outputs" / run_id


def actions(run: Path) -> list[dict[str, Any]]:
    return records(run / "lifecycle_decisions.jsonl")


def of_kind(run: Path, action: str) -> list[dict[str, Any]]:
    return [d for d in actions(run) if d["action"] == action]


def check_books(run: Path, steps: int) -> None:
    """Logs, states and population must tell one story."""
    slots: dict[int, list[str]] = {}
    for first in records(run / "snapshots.jsonl")[:1]:
        slots = {layer["layer_id"]: layer["expert_ids"] for layer in first["layers"]}
    born: list[str] = [name for ids in slots.values() for name in ids]
    seqs = []
    for d in actions(run):
        assert d["experts_before"] == slots[d["layer_id"]]
        slots[d["layer_id"]] = d["experts_after"]
        seqs.append(d["seq"])
        assert d["reason"]
        assert d["config_snapshot"]
        assert {"layer_entropy", "layer_neff", "topology_debt", "predicted_benefit"} <= set(
            d["metrics_at_decision"]
        )
        if d["action"] in ("SPLIT", "SPAWN"):
            born += d["child_ids"] or [d["expert_id"]]
        if d["integrated_step"] is None:
            # Decided too late to be finished: said all the same.
            assert d["experts_after"] == d["experts_before"]
            assert d["step"] > steps - 70
            continue
        assert d["step"] <= d["integrated_step"] <= steps
        assert d["receipt"]["probe_loss_before"] > 0
    assert len(set(seqs)) == len(seqs)
    assert len(set(born)) == len(born)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["population"] == {str(i): len(ids) for i, ids in slots.items()}
    counted = Counter(d["action"] for d in actions(run) if d["integrated_step"] is not None)
    assert {a: n for a, n in summary["lifecycle"].items() if n} == dict(counted)
    told = headline_record(scan_run(Run(run), Filters()))
    assert told["counts"] == dict(counted)
    late = Counter(d["action"] for d in actions(run) if d["integrated_step"] is None)
    assert told["unfinished"] == dict(late)
    executed = [
        (v["seq"], v["action"])
        for e in records(run / "lifecycle_evaluations.jsonl")
        for v in e["candidates"]
        if v["status"] == "executed"
    ]
    assert sorted((d["seq"], d["action"]) for d in actions(run)) == sorted(executed)
    state: dict[str, str] = {}
    for t in records(run / "expert_transitions.jsonl"):
        if "event" not in t:
            # A newborn made of an archived expert's weights is a birth with an origin.
            assert t["from"] in (state.get(t["expert_id"]), "archived")
            state[t["expert_id"]] = t["to"]
    live = {name for ids in slots.values() for name in ids}
    assert {n for n, s in state.items() if s not in ("archived", "pending_spawn")} == live


def check_twins_sample_as_twins(run: Path, step: int) -> None:
    """A checkpoint with an exclusive pair must load as one for sampling, too."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    twins = state["heartbeat"]["lifecycle"]["registry"]["twins"]
    assert twins
    model, _, _ = load_run_model(run, str(folder))
    pairs = {
        (f"L{layer.layer_id}", pair.parent, pair.child)
        for layer in model.moe_layers()
        for pair in (layer.twins.pairs if layer.twins is not None else [])
    }
    slots = state["heartbeat"]["lifecycle"]["registry"]["slots"]
    assert pairs == {
        (parent.split("_")[0], ids.index(parent), ids.index(child))
        for ids in slots.values()
        for child, parent in twins.items()
        if child in ids
    }


def test_splits_and_spawns_come_by_themselves(run_of: RunOf) -> None:
    full = run_of("aggressive", *RUNS["aggressive"])
    check_books(full, 220)
    births = [*of_kind(full, "SPLIT"), *of_kind(full, "SPAWN")]
    assert {d["action"] for d in births} == {"SPLIT", "SPAWN"}
    for d in of_kind(full, "SPLIT"):
        assert abs(d["receipt"]["probe_shock"]) < 1e-3
    check_twins_sample_as_twins(full, of_kind(full, "SPLIT")[0]["step"] + 10)


@pytest.mark.parametrize(
    "after",
    [
        # At the checkpoint of the decision: the newborn waits outside the model.
        pytest.param(0, marks=pytest.mark.whole),
        # In mid cooling.
        20,
    ],
)
def test_a_birth_is_resumed_bit_equal(
    run_of: RunOf, chronorun: Chronorun, tmp_path: Path, after: int
) -> None:
    full = run_of("aggressive", *RUNS["aggressive"])
    step = min(d["step"] for d in [*of_kind(full, "SPLIT"), *of_kind(full, "SPAWN")]) + after
    resumed = tmp_path / "outputs" / "resumed"
    shutil.copytree(full, resumed)
    for folder in (resumed / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    done = chronorun("train", "resume=outputs/resumed")
    assert done.returncode == 0, done.stderr
    for name in LOGS:
        assert records(resumed / f"{name}.jsonl") == records(full / f"{name}.jsonl"), name
    last = "checkpoints/step_00000220/model.safetensors"
    assert (resumed / last).read_bytes() == (full / last).read_bytes()


def test_prunes_come_after_the_lens_had_its_chance(run_of: RunOf) -> None:
    run = run_of("over", *RUNS["over"])
    check_books(run, 200)
    prunes = of_kind(run, "PRUNE")
    assert prunes
    assert of_kind(run, "SPLIT")
    assert any(d["actuator"]["lens_scale"] > 0 for d in records(run / "control_decisions.jsonl"))
    verdicts = [v for e in records(run / "lifecycle_evaluations.jsonl") for v in e["candidates"]]
    assert any(v["status"] == "deferred" and "lens attempt" in v["why"] for v in verdicts)
    for d in prunes:
        assert list((run / "archive").glob(f"{d['expert_id']}-*.safetensors"))
        sizes = d["receipt"]["optimizer_bytes"]
        removed = d["receipt"]["layer_bytes"]
        assert sizes[1] < sizes[0]
        assert removed[1] < removed[0]


@pytest.mark.whole
def test_planted_twins_are_merged(run_of: RunOf) -> None:
    run = run_of("merged", *RUNS["merged"])
    check_books(run, 300)
    merges = of_kind(run, "MERGE")
    assert [(d["expert_id"], d["partner_id"]) for d in merges][:1] == [("L0_E0", "L0_E1")]
    merge = merges[0]
    assert merge["metrics_at_decision"]["cosine"] > 0.95
    # Tokens choose both of them, so the absorbed one fades out over the cooling period.
    assert merge["integrated_step"] == merge["step"] + 60
    for felt in (merge["receipt"], merge["receipt"]["averaged"]):
        assert abs(felt["probe_shock"]) < 1e-3


@pytest.mark.whole
def test_experts_of_a_domain_that_returns_are_revived(chronorun: Chronorun, tmp_path: Path) -> None:
    run = train(
        chronorun,
        tmp_path,
        "shift",
        "lifecycle=aggressive",
        "lifecycle/split=off",
        "model.top_k=1",
        "router=unbalanced",
        "scenario=domain_shift",
        "scenario.shift_from=domain0",
        "scenario.shift_to=domain1",
        "scenario.shift_back=true",
        "scenario.start_step=150",
        "scenario.duration=200",
        "training.max_steps=450",
        base=BASE,
    )
    check_books(run, 450)
    pruned = {d["expert_id"]: d["step"] for d in of_kind(run, "PRUNE")}
    revived = of_kind(run, "REVIVE")
    assert revived
    for d in revived:
        assert d["step"] > pruned[d["expert_id"]]
        assert d["metrics_at_decision"]["archive_overlap"] >= 0.8


@pytest.mark.whole
def test_a_corrupted_child_is_rolled_back(chronorun: Chronorun, tmp_path: Path) -> None:
    run = train(
        chronorun,
        tmp_path,
        "bad",
        "router=unbalanced",  # a hog is split at once, on any processor
        "scenario=bad_edit",
        "scenario.start_step=60",
        "lifecycle=aggressive",
        "training.max_steps=200",
    )
    check_books(run, 200)
    victim = next(
        r["expert_id"] for r in records(run / "scenario_events.jsonl") if r["event"] == "start"
    )
    rollback = next(d for d in of_kind(run, "ROLLBACK") if d["expert_id"] == victim)
    undone = next(d for d in actions(run) if d["seq"] == rollback["undoes"])
    assert (undone["action"], undone["expert_id"]) == ("SPLIT", victim)
    assert rollback["receipt"]["probe_loss_after"] < rollback["receipt"]["probe_loss_before"]
    multipliers = [
        e["patience_multipliers"]
        for e in records(run / "lifecycle_evaluations.jsonl")
        if e["step"] == rollback["step"] and e["layer_id"] == rollback["layer_id"]
    ]
    assert multipliers == [{"SPLIT": 2}]


def test_a_dry_run_trains_as_if_there_were_none_and_says_what_it_would_do(
    run_of: RunOf,
) -> None:
    off, dry = (run_of(name, *RUNS[name]) for name in ("off", "dry"))
    lifecycle = "lifecycle/"
    for mine, theirs in zip(
        records(dry / "metrics.jsonl"), records(off / "metrics.jsonl"), strict=True
    ):
        assert {k: v for k, v in mine.items() if not k.startswith(lifecycle)} == theirs
    proposed = actions(dry)
    assert proposed
    assert all(d["dry_run"] and d["integrated_step"] is None for d in proposed)
    assert not (dry / "archive").exists()
    summary = json.loads((dry / "summary.json").read_text(encoding="utf-8"))
    assert summary["lifecycle_evaluations"]["proposed"] == len(proposed)
    assert set(summary["lifecycle"].values()) == {0}


@pytest.mark.whole
def test_a_healthy_run_is_left_alone_and_says_so(chronorun: Chronorun, tmp_path: Path) -> None:
    done = chronorun(
        "train", *BASE, "data=stdlib", "lifecycle=default", "training.max_steps=300", "run_id=calm"
    )
    assert done.returncode == 0, done.stderr
    assert actions(tmp_path / "outputs" / "calm") == []
    assert "no structural change called for in 30 checkpoints" in done.stdout


def test_the_lifecycle_needs_telemetry(chronorun: Chronorun) -> None:
    done = chronorun(
        "train", *NANO, "lifecycle=default", "telemetry=off", "governance=off", "run_id=blind"
    )
    assert done.returncode == 2
    assert (
        "configuration: telemetry.enabled=False, expected True while the lifecycle acts on it; "
        "add lifecycle=off or drop telemetry=off"
    ) in done.stderr
