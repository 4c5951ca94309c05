"""``chronorun inspect`` in this process, small logs to show it, and a validator of its schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chronorun.analysis import inspect
from chronorun.cli.main import run_command_line

SCHEMA = json.loads((Path(inspect.__path__[0]) / "inspect.schema.json").read_text("utf-8"))


@dataclass
class Shown:
    code: int
    out: str
    err: str


Inspect = Callable[..., Shown]


@pytest.fixture
def inspect(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Inspect:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str, width: int = 0) -> Shown:
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        code = run_command_line(["inspect", *arguments])
        captured = capfd.readouterr()
        return Shown(code, captured.out, captured.err)

    return run


def write_log(path: Path, records: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def errors(value: Any, schema: dict[str, Any] = SCHEMA, at: str = "$") -> list[str]:
    """Return where a value breaks a schema: the few words of JSON Schema that ours uses."""
    if "$ref" in schema:
        return errors(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], at)
    if "oneOf" in schema:
        tried = [errors(value, one, at) for one in schema["oneOf"]]
        return [] if sum(not found for found in tried) == 1 else min(tried, key=len)
    if "const" in schema and value != schema["const"]:
        return [f"{at} is {value!r}, expected {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at} is {value!r}, expected one of {schema['enum']}"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return [f"{at} is {value!r}, expected {kinds}"]
    found: list[str] = []
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{at} lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            if name in known or isinstance(more, dict):
                found += errors(item, known.get(name, more), f"{at}.{name}")
            elif not more:
                found.append(f"{at} has {name}, too")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += errors(item, schema["items"], f"{at}[{index}]")
    return found


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    types = {"string": str, "object": dict, "array": list, "integer": int, "null": type(None)}
    return isinstance(value, int | float) if kind == "number" else isinstance(value, types[kind])


def decision(**changes: Any) -> dict[str, Any]:
    """Return a record as our runs write it: a prune of one of three experts."""
    record = {
        "step": 200,
        "run_id": "r",
        "action": "PRUNE",
        "layer_id": 0,
        "expert_id": "L0_E1",
        "parent_id": None,
        "reason": "dormant",
        "metrics_at_decision": {
            "share": 0.0,
            "dormancy_duration": 9,
            "lens_deferrals": 6,
            "predicted_benefit": 0.0,
        },
        "config_snapshot": {"prune_patience": 4, "prune_lens_grace": 2},
        "schema_version": 1,
        "seq": 0,
        "integrated_step": 200,
        "child_ids": [],
        "partner_id": None,
        "undoes": None,
        "experts_before": ["L0_E0", "L0_E1", "L0_E2"],
        "experts_after": ["L0_E0", "L0_E2"],
        "receipt": {"probe_shock": 0.0007, "output_change": 0.268},
        "dry_run": False,
    }
    return record | changes


def small_run(folder: Path) -> Path:
    """Write the logs of a run in which everything happens once, by hand; return its folder."""
    ids = [f"L0_E{i}" for i in range(4)]
    split = decision(
        step=100, integrated_step=100, action="SPLIT", expert_id="L0_E4", parent_id="L0_E0",
        reason="overloaded", seq=0, experts_before=ids, experts_after=[*ids, "L0_E4"],
        metrics_at_decision={"share": 0.57, "share_ratio": 2.3, "overload_duration": 5},
        config_snapshot={"split_share_threshold": 0.4, "split_patience": 3},
    )  # fmt: skip
    back = decision(
        step=200, integrated_step=200, action="ROLLBACK", expert_id="L0_E4", reason="harm", seq=1,
        undoes=0, experts_before=[*ids, "L0_E4"], experts_after=ids,
        metrics_at_decision={"probe_loss": 2.4, "undone_loss": 2.3}, config_snapshot={},
    )  # fmt: skip
    merge = decision(
        step=220, integrated_step=220, action="MERGE", expert_id="L0_E0", partner_id="L0_E1",
        reason="converged", seq=2, experts_before=ids, experts_after=["L0_E0", *ids[2:]],
        metrics_at_decision={"cosine": 0.97, "overlap": 0.91, "convergence_duration": 8},
        config_snapshot={
            "merge_similarity_threshold": 0.95, "merge_overlap_threshold": 0.8, "merge_patience": 8,
        },
    )  # fmt: skip
    prune = decision(
        step=240, integrated_step=240, expert_id="L0_E2", seq=3,
        experts_before=["L0_E0", *ids[2:]], experts_after=["L0_E0", "L0_E3"],
    )  # fmt: skip
    revive = decision(
        step=300, integrated_step=300, action="REVIVE", expert_id="L0_E2",
        reason="sustained_starvation", seq=4,
        experts_before=["L0_E0", "L0_E3"], experts_after=["L0_E0", "L0_E3", "L0_E2"],
        metrics_at_decision={
            "starved_by": "undecided", "starvation_duration": 6, "archive_overlap": 0.88,
        },
        config_snapshot={"spawn_patience": 5},
    )  # fmt: skip
    write_log(folder / "lifecycle_decisions.jsonl", [split, back, merge, prune, revive])
    judged = {"seq": 0, "action": "SPLIT", "realised_benefit": 0.0812, "harmful": True}
    evaluations = []
    for number, step in enumerate(range(20, 320, 20), 1):
        dormant = step >= 180 and step <= 240
        evaluations.append(_evaluation(number, step, dormant, [judged] if step == 200 else []))
    write_log(folder / "lifecycle_evaluations.jsonl", evaluations)
    moves = [(0, None, "active", "initial"), (180, "active", "dormant", "no share")]
    moves += [(240, "dormant", "pending_prune", "confirmed dead")]
    moves += [(240, "pending_prune", "archived", "removed"), (300, "archived", "active", "revived")]
    released = {
        "step": 160, "layer_id": 0, "expert_id": "L0_E4", "parent_id": "L0_E0",
        "event": "released", "router_delta": 0.05,
        "receipt": {"probe_shock": 0.00012, "output_change": 0.15},
    }  # fmt: skip
    transitions = [
        {"step": s, "layer_id": 0, "expert_id": "L0_E2", "from": a, "to": b, "reason": r}
        for s, a, b, r in moves
    ]
    write_log(folder / "expert_transitions.jsonl", [released, *transitions])
    write_log(
        folder / "metrics.jsonl",
        [{"step": s, "train/loss": 5 - s / 100, "val/loss": 5.1 - s / 100} for s in (20, 160, 300)],
    )
    lifecycle = {
        "prune_patience": 4, "split_patience": 3, "merge_patience": 8, "suspect_patience": 2,
        "spawn_patience": 5, "split_share_threshold": 0.4, "split_share_ratio": None,
        "merge_similarity_threshold": 0.95, "merge_overlap_threshold": 0.8, "prune_lens_grace": 2,
    }  # fmt: skip
    manifest = {
        "run_id": "small",
        "architecture": {"n_experts_per_layer": [4]},
        "config": {"lifecycle": lifecycle},
    }
    (folder / "run_manifest.json").write_text(json.dumps(manifest))
    summary = {
        "run_id": "small", "status": "completed", "steps": 300, "train_loss": 2.0,
        "val_loss": 2.1, "population": {"0": 3}, "alerts_total": 2,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _evaluation(
    number: int, step: int, dormant: bool, judgements: list[dict[str, Any]]
) -> dict[str, Any]:
    held = (step - 160) // 20 if dormant else 0
    verdict = {"status": "deferred", "why": "warm-up until step 240", "seq": None}
    if step == 200:
        verdict["why"] = "lens attempt, deferral 1 of 2"
    if step == 240:
        verdict = {"status": "executed", "why": "", "seq": 3}
    candidate = {
        "action": "PRUNE", "expert_id": "L0_E2", "parent_id": None, "partner_id": None,
        "reason": "dormant", "held": held, "undoes": None, **verdict,
    }  # fmt: skip
    share = {"L0_E0": 0.6, "L0_E1": 0.2, "L0_E2": 0.0 if dormant else 0.1, "L0_E3": 0.1}
    return {
        "step": step,
        "checkpoint": number,
        "layer_id": 0,
        "cycle": True,
        "candidates": [candidate] if held >= 2 else [],
        "judgements": judgements,
        "suspects": [],
        "counters": {
            "starvation": 0,
            "dormancy": {"L0_E2": held} if held else {},
            # Counts on after the grace and in the warm-up, when nothing is put off for the lens.
            "lens_deferrals": {"L0_E2": held + 2} if held >= 2 else {},
            "overload": {"L0_E0": min(number, 2)},
            "convergence": {"L0_E0|L0_E1": number % 3},
            "suspicion": {},
        },
        "patience_multipliers": {},
        "signals": {
            "dispatched": 1000,
            "experts": [
                {
                    "expert_id": name,
                    "state": "dormant" if part == 0.0 else "active",
                    "born_step": 0,
                    "share": part,
                }
                for name, part in share.items()
            ],
            "pairs": [{"first": "L0_E0", "second": "L0_E3", "cosine": 0.3, "overlap": 0.4}],
        },
    }
