"""A sweep for the tests of bench tables and reports, with planted numbers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from chronorun.bench.evidence.results import JobResult

ARMS = ("static", "static_mean", "loss_free", "yoked", "lifecycle")
CELLS = (("none", ""), ("too_many", ""), ("dead_expert", "lifecycle=aggressive"))
EFFECTS = {
    "none": dict.fromkeys(ARMS, 0.0),
    "too_many": {"lifecycle": -0.06, "loss_free": -0.02, "yoked": -0.01, "static_mean": -0.03},
    "dead_expert": {"lifecycle": 0.05, "yoked": 0.02},
}
EVENT = 60


def sweep(seeds: int = 10, arms: tuple[str, ...] = ARMS) -> list[JobResult]:
    """Return three cells: nothing happens, the lifecycle helps, it harms; one job failed, one was
    skipped."""
    results = []
    for scenario, variant in CELLS:
        for seed in range(seeds):
            level = 2.3 + 0.05 * random.Random(f"{scenario}{seed}").gauss(0, 1)
            for arm in arms:
                number = len(results)
                folder = f"{number}-arm={arm},scenario={scenario},seed={seed}"
                effect = EFFECTS[scenario].get(arm, 0.0)
                noise = random.Random(f"{scenario}{seed}{arm}").gauss(0, 0.002)
                metrics = _metrics(scenario, arm, seed, level + effect + noise)
                wall = {"seconds": 10.0 + number % 5, "peak_memory_bytes": (400 + seed) * 2.0**20}
                results.append(
                    JobResult(
                        number, folder, arm, scenario, variant, seed, "completed", "", metrics, wall
                    )
                )
    if seeds > 4 and arms == ARMS:
        _fail(results, "dead_expert", "loss_free", 3, "failed", "DivergenceError: loss is nan")
        _fail(results, "none", "yoked", 2, "skipped", "lifecycle of this seed failed")
    return results


def _fail(
    results: list[JobResult], scenario: str, arm: str, seed: int, status: str, reason: str
) -> None:
    for i, r in enumerate(results):
        if (r.scenario, r.arm, r.seed) == (scenario, arm, seed):
            results[i] = JobResult(
                r.number,
                r.folder,
                arm,
                scenario,
                r.variant,
                seed,
                status,
                reason,  # type: ignore[arg-type]
            )


def _metrics(scenario: str, arm: str, seed: int, loss: float) -> dict[str, float | None]:
    edits = (3.0 + seed % 2) if arm in ("lifecycle", "yoked") and scenario != "none" else 0.0
    experts = 8.0 - edits / 2
    hit = scenario == "dead_expert"
    recovered = None if not hit else float(seed % 3 > 0)
    return {
        "val_loss": loss,
        "val_loss_per_byte": loss / 2,
        "val_loss/prose": loss + 0.1,
        "val_loss/code": loss - 0.1,
        "val_loss_auc": loss + 0.4,
        "excess_loss": 0.12 + 0.01 * seed if hit else None,
        "recovery_steps": 40.0 + 10 * seed if recovered else None,
        "recovered": recovered,
        "n_effective": experts - 0.5,
        "n_effective_mean": experts - 0.75,
        "dead_expert_steps": 20.0 if hit else 0.0,
        "max_vio": 0.4,
        "max_vio_mean": 0.5,
        "dropped_fraction": 0.01,
        "edits": edits,
        "edits/PRUNE": edits,
        "edits/SPAWN": 0.0,
        "deferrals": 2.0,
        "blocked": 1.0,
        "rollbacks": 0.5,
        "predicted_benefit": -0.01 if edits else None,
        "realised_benefit": -0.008 if edits else None,
        "mean_population": experts,
        "final_population": 8.0 - edits,
        "active_flops_per_token": 1.25e6,
        "executed_flops": 3.5e12,
        "parameter_steps": 4.2e8 * experts / 8,
        "total_parameters_final": 1.4e6 * experts / 8,
    }


def write_logs(results: list[JobResult], folder: Path, every: int = 20, steps: int = 300) -> None:
    """Write the metrics.jsonl of the jobs that were trained."""
    for result in results:
        if result.status != "completed":
            continue
        end = result.metrics["val_loss"] or 0.0
        edits = int(result.metrics["edits"] or 0)
        lines = [json.dumps({"step": 10, "train/loss": 4.9})]
        for step in range(every, steps + 1, every):
            shock = 0.2 if result.scenario == "dead_expert" and 60 <= step < 140 else 0.0
            loss = end + 2.0 * (math.exp(-step / 45) - math.exp(-steps / 45)) + shock
            row = {"step": step, "val/loss": loss, "moe/L0/num_experts": 8}
            row["moe/L1/num_experts"] = 8 - min(edits, step // 80)
            lines.append(json.dumps(row))
        (folder / result.folder).mkdir(parents=True)
        path = folder / result.folder / "metrics.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
