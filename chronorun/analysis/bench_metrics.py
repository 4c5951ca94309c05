"""Figures of one finished run, for comparison with others: read from its folder alone.

None stands for what a run cannot tell: a metric of a log that it did not write, a recovery that did
not come within it, an event that there was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from chronorun.analysis.bench_course import Course, read_course
from chronorun.analysis.bench_events import excess_and_recovery
from chronorun.analysis.compute import Shape
from chronorun.analysis.reading import read_records
from chronorun.errors import StorageError, UserError

Figures = dict[str, float | None]
ACTIONS = ("SPAWN", "PRUNE", "SPLIT", "MERGE", "REVIVE", "ROLLBACK")


def run_metrics(run_dir: Path) -> Figures:
    """Return what a run ended with and went through; equal runs give equal figures.

    Losses are in nats per token, benefits in nats of probe loss (below 0 the edit helped), counts
    over the whole run. Populations are experts per layer. Raises StorageError for a folder without
    a readable summary.json or metrics.jsonl.
    """
    summary, config = _summary(run_dir), _config(run_dir)
    course = read_course(run_dir / "metrics.jsonl")
    figures: Figures = {
        "val_loss": _number(summary.get("val_loss")),
        "val_loss_per_byte": _number(summary.get("val_loss_per_byte")),
        "val_loss_auc": course.area(),
    }
    domains = summary.get("val_loss_by_domain") or {}
    figures |= {f"val_loss/{name}": _number(loss) for name, loss in domains.items()}
    figures |= excess_and_recovery(run_dir / "scenario_events.jsonl", course)
    figures |= _health(run_dir, course)
    figures |= _edits(run_dir, summary)
    figures |= _compute(summary, config, course)
    return figures


def wall_figures(run_dir: Path) -> Figures:
    """Return what differs between equal runs: seconds, and tokens per second of training."""
    summary = _summary(run_dir)
    return {
        "seconds": _number(summary.get("wall_seconds")),
        "tokens_per_second": _number(summary.get("tokens_per_second")),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _summary(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "summary.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(
            f"bench: {path} cannot be read, expected the summary of a finished run; run the job "
            f"again"
        ) from error
    return found


def _config(run_dir: Path) -> Any:
    from omegaconf import OmegaConf

    from chronorun.config.run import RunConfig

    saved = OmegaConf.load(run_dir / "config.yaml")
    return OmegaConf.merge(OmegaConf.structured(RunConfig), saved)


# ---- routing ---------------------------------------------------------------------------------


@dataclass
class _Loads:
    """Maximal violation per checkpoint, and dead experts times steps."""

    max_vio: list[float] = field(default_factory=list)
    dead_steps: float = 0.0


def _health(run_dir: Path, course: Course) -> Figures:
    loads = _loads(run_dir / "snapshots.jsonl")
    n_eff, dropped = course.layer_means("n_effective"), course.layer_means("dropped_fraction")
    known = loads is not None and loads.max_vio
    return {
        "n_effective": n_eff[-1] if n_eff else None,
        "n_effective_mean": fmean(n_eff) if n_eff else None,
        "max_vio": loads.max_vio[-1] if loads and known else None,
        "max_vio_mean": fmean(loads.max_vio) if loads and known else None,
        "dead_expert_steps": loads.dead_steps if loads else None,
        "dropped_fraction": fmean(dropped) if dropped else None,
    }


def _loads(path: Path) -> _Loads | None:
    """Return MaxVio of Wang et al. 2024 (arXiv:2408.15664): largest load over the mean, less 1."""
    if not path.is_file():
        return None
    loads, last = _Loads(), 0
    for _, record in read_records(path):
        layers = record["layers"]
        shares = [layer["utilization_shares"] for layer in layers]
        full = [max(s) * len(s) - 1.0 for s in shares if any(s)]
        if full:
            loads.max_vio.append(fmean(full))
        dead = sum(layer["dead_expert_count"] for layer in layers)
        loads.dead_steps += dead * (record["step"] - last)
        last = record["step"]
    return loads


# ---- edits -----------------------------------------------------------------------------------


def _edits(run_dir: Path, summary: Mapping[str, Any]) -> Figures:
    counts = summary.get("lifecycle") or {}
    figures: Figures = {"edits": float(sum(counts.get(a, 0) for a in ACTIONS))}
    figures |= {f"edits/{a}": float(counts.get(a, 0)) for a in ACTIONS}
    figures["rollbacks"] = figures["edits/ROLLBACK"]
    statuses = {"deferred": 0, "blocked": 0}
    realised: dict[int, float] = {}
    for record in _if_there(run_dir / "lifecycle_evaluations.jsonl"):
        for candidate in record["candidates"]:
            if candidate["status"] in statuses:
                statuses[candidate["status"]] += 1
        realised |= {j["seq"]: j["realised_benefit"] for j in record["judgements"]}
    predicted = [
        float(line["metrics_at_decision"].get("predicted_benefit", 0.0))
        for line in _if_there(run_dir / "lifecycle_decisions.jsonl")
        if line["seq"] in realised
    ]
    figures |= {"deferrals": float(statuses["deferred"]), "blocked": float(statuses["blocked"])}
    figures["predicted_benefit"] = fmean(predicted) if predicted else None
    figures["realised_benefit"] = fmean(realised.values()) if realised else None
    return figures


def _if_there(path: Path) -> list[dict[str, Any]]:
    try:
        return [record for _, record in read_records(path)]
    except UserError:
        return []


# ---- compute ---------------------------------------------------------------------------------


def _compute(summary: Mapping[str, Any], config: Any, course: Course) -> Figures:
    """Return compute and population, the latter weighted by the steps that it lasted."""
    from omegaconf import OmegaConf

    model = OmegaConf.to_object(config.model)
    vocab = int(summary.get("vocab_size") or 256)
    shape = Shape(model, vocab, bool(config.router.noisy))  # type: ignore[arg-type]
    n_layers = shape.model.num_moe_layers
    per_step = float(config.training.batch_size * shape.model.context_length)
    periods = course.populations() or [
        (int(summary["steps"]), [shape.model.num_experts] * n_layers)
    ]
    steps = sum(n for n, _ in periods)
    flops = sum(n * per_step * shape.training_flops_per_token(e) for n, e in periods)
    mean_forward = sum(n * shape.forward_flops_per_token(e) for n, e in periods) / max(steps, 1)
    unseen = sum(_number(summary.get(f"{name}_tokens")) or 0.0 for name in ("eval", "probe"))
    last = periods[-1][1]
    return {
        "active_flops_per_token": flops / max(per_step * steps, 1.0),
        "executed_flops": flops + unseen * mean_forward,
        "parameter_steps": float(sum(n * shape.total_parameters(e) for n, e in periods)),
        "total_parameters_final": float(shape.total_parameters(last)),
        "mean_population": sum(n * sum(e) for n, e in periods) / max(steps * n_layers, 1),
        "final_population": sum(last) / n_layers,
    }
