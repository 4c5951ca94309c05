"""Runs for the tests of reports and plots, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# The published example of a decision, word for word.
SEED_RECORD: dict[str, Any] = {
    "step": 15000,
    "run_id": "experiment_42",
    "action": "SPAWN",
    "layer_id": 2,
    "expert_id": "L2_E9",
    "parent_id": "L2_E3",
    "reason": "sustained_starvation",
    "metrics_at_decision": {
        "layer_entropy": 1.82,
        "layer_neff": 4.1,
        "starvation_duration": 6,
        "topology_debt": 0.73,
    },
    "config_snapshot": {"spawn_patience": 5, "spawn_init_strategy": "clone_and_perturb"},
}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg></style><b>",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eright to left\u2066",
    "[bold red]markup[/]",
    "&lt;b&gt; ' onload='x",
    "\u2028line\x00\ufeff",
    "x" * 100_000,
]


def write_log(folder: Path, name: str, records: list[Any]) -> None:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def decision(seq: int, step: int, action: str, expert_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "step": step,
        "run_id": "small",
        "action": action,
        "layer_id": 0,
        "expert_id": expert_id,
        "parent_id": None,
        "reason": "overloaded",
        "metrics_at_decision": {"share": 0.5, "predicted_benefit": -0.002},
        "config_snapshot": {},
        "seq": seq,
        "integrated_step": step,
        **fields,
    }


def small_run(folder: Path, checkpoints: int = 10) -> Path:
    """Write logs in which E2 is split off E0, E1 is merged into E0 and E2 is taken back."""
    population = [["L0_E0", "L0_E1"], ["L0_E0", "L0_E1", "L0_E2"], ["L0_E0", "L0_E2"], ["L0_E0"]]
    stage = [0] * 4 + [1] * 2 + [2] * 2 + [3] * (checkpoints - 8)
    snapshots, metrics, control = [], [], []
    for i, at in enumerate(stage[:checkpoints]):
        step, ids = 10 * (i + 1), population[at]
        shares = [1.0 / len(ids)] * len(ids)
        layer = {"layer_id": 0, "utilization_shares": shares, "expert_ids": ids}
        snapshots.append({"step": step, "run_id": "small", "layers": [layer]})
        metrics.append({"step": step, "train/loss": 4.0 - 0.1 * i, "val/loss": 4.1 - 0.1 * i})
        control.append(
            {
                "step": step,
                "layer_id": 0,
                "computed": {"debt": 0.25, "pressure": 0.5},
                "actuator": {"lens_scale": 0.1},
            }
        )
    write_log(folder, "snapshots", snapshots)
    write_log(folder, "metrics", metrics)
    write_log(folder, "control_decisions", control)
    before = {"experts_before": population[0], "experts_after": population[1]}
    merged = {"experts_before": population[1], "experts_after": population[2]}
    undone = {"experts_before": population[2], "experts_after": population[3]}
    receipt = {"probe_shock": 0.0005, "output_change": 0.125}
    write_log(
        folder,
        "lifecycle_decisions",
        [
            decision(0, 40, "SPLIT", "L0_E2", parent_id="L0_E0", receipt=receipt, **before),
            decision(1, 60, "MERGE", "L0_E0", partner_id="L0_E1", **merged),
            decision(2, 80, "ROLLBACK", "L0_E2", undoes=0, reason="harm", **undone),
        ],
    )
    judged = [{"seq": 0, "action": "SPLIT", "realised_benefit": 0.0125, "harmful": True}]
    write_log(folder, "lifecycle_evaluations", [{"step": 80, "layer_id": 0, "judgements": judged}])
    summary = {"run_id": "small", "status": "completed", "steps": 100, "val_loss": 3.25}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder
