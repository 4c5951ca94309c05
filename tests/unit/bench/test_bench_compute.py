"""Compute and population of real runs, against what their single steps were."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from conftest import NANO

from chronorun.bench.evidence.metrics import run_metrics, wall_figures


def train(run_dir: Path, *overrides: str) -> dict[str, Any]:
    from chronorun.config.compose import compose_run
    from chronorun.tracking import build_trackers
    from chronorun.training import run_training

    config, composed = compose_run([*NANO, "tracking=no_wandb", *overrides])
    return run_training(config, composed, run_dir, build_trackers(config, run_dir, quiet=True))


@pytest.fixture
def private_cache(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONORUN_CACHE", str(cache_dir))


@pytest.mark.usefixtures("private_cache")
def test_a_real_run_tells_everything(tmp_path: Path) -> None:
    plant = ("scenario=planted_redundancy", "scenario.start_step=20")
    summary = train(tmp_path / "run", *plant)
    figures = run_metrics(tmp_path / "run")
    # Nothing was judged, and the loss may or may not come back within 20 steps.
    assert {name for name, figure in figures.items() if figure is None} <= {
        "predicted_benefit",
        "realised_benefit",
        "recovery_steps",
    }
    assert figures["val_loss"] == summary["val_loss"]
    assert figures["total_parameters_final"] == summary["parameters"]["total"]
    assert figures["mean_population"] == figures["final_population"] == 8.0
    assert figures["edits"] == figures["deferrals"] == 0.0
    tokens, alone = 40 * 4 * 64, summary["eval_tokens"] + summary["probe_tokens"]
    assert alone > 0
    per_token = figures["active_flops_per_token"]
    assert per_token is not None
    assert figures["executed_flops"] == pytest.approx(per_token * (tokens + alone / 3))
    assert wall_figures(tmp_path / "run")["seconds"] == summary["wall_seconds"]


STEPS_CASES = {
    "lifecycle": ("lifecycle=aggressive", "training.max_steps=240", "model.num_experts=3"),
    "top-k": ("scenario=capacity_whiplash", "scenario.start_step=15", "scenario.duration=12"),
    "plant": ("scenario=planted_two_mode", "scenario.start_step=20"),
}


@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("case", STEPS_CASES)
def test_compute_is_that_of_every_single_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    from chronorun.model import GPT

    experts: list[list[int]] = []
    active: list[int] = []
    total: list[int] = []
    forward = GPT.forward

    def watched(self: GPT, *tokens: Any) -> Any:
        if self.training:
            experts.append([layer.num_experts for layer in self.moe_layers()])
            counts = self.parameter_counts()
            active.append(counts["active"])
            total.append(counts["total"])
        return forward(self, *tokens)

    monkeypatch.setattr(GPT, "forward", watched)
    train(tmp_path / "run", *STEPS_CASES[case])
    figures = run_metrics(tmp_path / "run")
    assert (figures["edits"] != 0.0) == (case == "lifecycle")
    mean = sum(sum(e) for e in experts) / sum(map(len, experts))
    assert figures["mean_population"] == pytest.approx(mean)
    assert figures["parameter_steps"] == sum(total)
    # Beside the weights of its five norms, whose products are not counted.
    weights, attention = fmean(active) - 5 * 64, 12 * 2 * 64 * 64
    assert figures["active_flops_per_token"] == pytest.approx(6 * weights + attention)
