"""Figures of one run, from logs whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chronorun.bench.evidence.course import read_course
from chronorun.bench.evidence.events import excess_and_recovery
from chronorun.bench.evidence.flops import Shape
from chronorun.bench.evidence.metrics import run_metrics, wall_figures
from chronorun.config.model import ModelConfig
from chronorun.errors import StorageError

LOSSES = {10: 4.0, 20: 3.0, 30: 3.5, 40: 2.5}
POPULATION = {10: (2, 2), 20: (2, 2), 30: (3, 2), 40: (3, 2)}

SHAPE = Shape(ModelConfig(n_layers=2, d_model=16, n_heads=2, num_experts=2, top_k=1), 64)


def write(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    config = {
        "model": {"n_layers": 2, "d_model": 16, "n_heads": 2, "num_experts": 2, "top_k": 1},
        "training": {"batch_size": 4},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    summary = {
        "steps": 40,
        "val_loss": 2.4,
        "val_loss_per_byte": 1.2,
        "val_loss_by_domain": {"code": 2.0},
        "eval_tokens": 1000,
        "probe_tokens": 200,
        "vocab_size": 64,
        "wall_seconds": 7.5,
        "tokens_per_second": 100.0,
        "lifecycle": {"SPAWN": 1, "ROLLBACK": 1},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    write(
        tmp_path / "metrics.jsonl",
        {"step": 5, "train/loss": 5.0},
        *(
            {
                "step": step,
                "val/loss": loss,
                **{
                    f"moe/L{i}/{name}": value
                    for i, n in enumerate(POPULATION[step])
                    for name, value in (
                        ("num_experts", n),
                        ("n_effective", n - 0.5),
                        ("dropped_fraction", 0.25 * i),
                    )
                },
            }
            for step, loss in LOSSES.items()
        ),
    )
    return tmp_path


def test_losses_are_the_summarys_and_the_area_the_trapezoids(run_dir: Path) -> None:
    figures = run_metrics(run_dir)
    assert (figures["val_loss"], figures["val_loss_per_byte"]) == (2.4, 1.2)
    assert figures["val_loss/code"] == 2.0
    # 10 * (3.5 + 3.25 + 3.0) over 30 steps.
    assert figures["val_loss_auc"] == pytest.approx(3.25)


def test_populations_are_weighted_by_the_steps_they_lasted(run_dir: Path) -> None:
    figures = run_metrics(run_dir)
    assert figures["mean_population"] == pytest.approx((20 * 4 + 20 * 5) / 80)
    assert figures["final_population"] == 2.5


def change_summary(run_dir: Path, **fields: Any) -> None:
    path = run_dir / "summary.json"
    kept = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def test_the_last_population_is_that_after_the_last_edits(run_dir: Path) -> None:
    change_summary(run_dir, population={"1": 2, "0": 4})
    figures = run_metrics(run_dir)
    assert figures["final_population"] == 3.0
    assert figures["total_parameters_final"] == SHAPE.total_parameters([4, 2])
    assert figures["mean_population"] == 2.25


def test_a_run_without_telemetry_kept_its_population(run_dir: Path) -> None:
    write(run_dir / "metrics.jsonl", {"step": 40, "val/loss": 2.5})
    change_summary(run_dir, population={"0": 2, "1": 2})
    figures = run_metrics(run_dir)
    assert (figures["mean_population"], figures["final_population"]) == (2.0, 2.0)
    assert figures["parameter_steps"] == 40 * SHAPE.total_parameters([2, 2])
    assert figures["n_effective"] is figures["dropped_fraction"] is None
    change_summary(run_dir, population={"0": 1, "1": 2})
    figures = run_metrics(run_dir)
    assert (figures["mean_population"], figures["final_population"]) == (None, 1.5)
    assert figures["parameter_steps"] is figures["executed_flops"] is None


def test_a_stress_on_top_k_changes_the_operations_while_it_lasts(run_dir: Path) -> None:
    write(
        run_dir / "scenario_events.jsonl",
        {"step": 15, "scenario": "capacity_whiplash", "event": "start", "layers": [0], "top_k": 1},
        {"step": 38, "scenario": "capacity_whiplash", "event": "end", "layers": [0], "top_k": 2},
    )
    # The windows are cut where the stress begins and ends; before it top-k was what it ends with.
    periods = [
        (15, [2, 2], [2, 1]),
        (5, [2, 2], [1, 1]),
        (18, [3, 2], [1, 1]),
        (2, [3, 2], [2, 1]),
    ]
    trained = sum(n * SHAPE.training_flops_per_token(e, k) for n, e, k in periods)
    assert run_metrics(run_dir)["active_flops_per_token"] == pytest.approx(trained / 40)


@pytest.mark.parametrize(
    ("missing", "unknown"),
    [
        ("eval_tokens", {"executed_flops"}),
        ("probe_tokens", {"executed_flops"}),
        (
            "vocab_size",
            {
                "executed_flops",
                "active_flops_per_token",
                "parameter_steps",
                "total_parameters_final",
            },
        ),
    ],
)
def test_what_an_older_summary_lacks_is_not_guessed(
    run_dir: Path, missing: str, unknown: set[str]
) -> None:
    before = run_metrics(run_dir)
    change_summary(run_dir, **{missing: None})
    after = run_metrics(run_dir)
    assert {name for name in before if before[name] != after[name]} == unknown
    assert {after[name] for name in unknown} == {None}


def test_compute_follows_the_population(run_dir: Path) -> None:
    shape = SHAPE
    small, large = [2, 2], [3, 2]
    per_step = 4 * 128
    trained = 20 * per_step * sum(shape.training_flops_per_token(e) for e in (small, large))
    forward = sum(shape.forward_flops_per_token(e) for e in (small, large)) / 2
    figures = run_metrics(run_dir)
    assert figures["active_flops_per_token"] == pytest.approx(trained / (40 * per_step))
    assert figures["executed_flops"] == pytest.approx(trained + 1200 * forward)
    assert figures["parameter_steps"] == 20 * sum(shape.total_parameters(e) for e in (small, large))
    assert figures["total_parameters_final"] == shape.total_parameters(large)


def test_routing_figures_are_means_over_layers(run_dir: Path) -> None:
    layers = [[0.75, 0.25], [0.5, 0.5]]
    write(
        run_dir / "snapshots.jsonl",
        *(
            {
                "step": step,
                "layers": [
                    {"utilization_shares": shares, "dead_expert_count": dead}
                    for shares, dead in zip(layers, (1, 2), strict=True)
                ],
            }
            for step in (10, 30)
        ),
    )
    figures = run_metrics(run_dir)
    assert figures["max_vio"] == figures["max_vio_mean"] == pytest.approx(0.25)
    assert figures["dead_expert_steps"] == 3 * 10 + 3 * 20
    assert figures["n_effective"] == pytest.approx(2.0)
    assert figures["n_effective_mean"] == pytest.approx(1.75)
    assert figures["dropped_fraction"] == pytest.approx(0.125)


def test_edits_and_what_became_of_them(run_dir: Path) -> None:
    write(
        run_dir / "lifecycle_evaluations.jsonl",
        {"candidates": [{"status": "deferred"}, {"status": "blocked"}], "judgements": []},
        {
            "candidates": [{"status": "deferred"}, {"status": "executed"}],
            "judgements": [{"seq": 0, "realised_benefit": -0.5}],
        },
    )
    write(
        run_dir / "lifecycle_decisions.jsonl",
        {"seq": 0, "metrics_at_decision": {"predicted_benefit": 0.25}},
        {"seq": 1, "metrics_at_decision": {"predicted_benefit": 9.0}},
    )
    figures = run_metrics(run_dir)
    assert figures["edits"] == 2.0
    assert (figures["edits/SPAWN"], figures["edits/PRUNE"], figures["rollbacks"]) == (1, 0, 1)
    assert (figures["deferrals"], figures["blocked"]) == (2.0, 1.0)
    assert (figures["predicted_benefit"], figures["realised_benefit"]) == (0.25, -0.5)


def test_what_a_run_did_not_write_is_unknown(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").unlink()
    figures = run_metrics(run_dir)
    unknown = {
        "val_loss_auc",
        "n_effective",
        "n_effective_mean",
        "max_vio",
        "max_vio_mean",
        "dead_expert_steps",
        "dropped_fraction",
        "predicted_benefit",
        "realised_benefit",
        "excess_loss",
        "recovery_steps",
        "recovered",
    }
    assert {name for name, figure in figures.items() if figure is None} == unknown


def test_without_a_lifecycle_nothing_was_done_and_with_one_it_is_unknown(run_dir: Path) -> None:
    change_summary(run_dir, lifecycle=None)
    names = ["edits", "edits/MERGE", "rollbacks", "deferrals", "blocked"]
    figures = run_metrics(run_dir)
    assert [figures[name] for name in names] == [0.0] * 5
    config = json.loads((run_dir / "config.yaml").read_text())
    (run_dir / "config.yaml").write_text(json.dumps(config | {"lifecycle": {"enabled": True}}))
    figures = run_metrics(run_dir)
    assert [figures[name] for name in names] == [None] * 5


EVENT_CASES = [
    # Level 3.0 at step 20; above it by 0.5 at step 30 alone, back at it half way to step 40: two
    # triangles of height 0.5, the second 5 steps wide.
    ([("start", 25), ("end", 28)], (1.25 + 1.25, 12.0, 1.0)),
    ([("planted", 20)], (2.5 + 1.25, 20.0, 1.0)),
    # A checkpoint at the very end of a stress still saw it.
    ([("start", 20), ("start", 20), ("end", 30), ("end", 30)], (3.75, 10.0, 1.0)),
    # Level 4.0: never above it. The step of the event is the number of steps done before it.
    ([("start", 10), ("end", 20)], (0.0, 10.0, 1.0)),
    ([("start", 35), ("end", 40)], (0.0, None, 0.0)),
    # Back at its level under a stress that is still on: nobody knows what comes after it.
    ([("start", 10)], (0.0, None, 0.0)),
    ([("start", 25), ("start", 25)], (2.5, None, 0.0)),
    ([("start", 5), ("end", 28)], (None, None, None)),
    ([], (None, None, None)),
]


@pytest.mark.parametrize(("events", "expected"), EVENT_CASES)
def test_an_event_costs_what_lies_above_the_loss_before_it(
    run_dir: Path, events: list[tuple[str, int]], expected: tuple[float | None, ...]
) -> None:
    log = run_dir / "scenario_events.jsonl"
    write(log, *({"step": s, "scenario": "dead_expert", "event": event} for event, s in events))
    found = excess_and_recovery(log, read_course(run_dir / "metrics.jsonl"))
    assert (found["excess_loss"], found["recovery_steps"], found["recovered"]) == expected


def test_a_loss_that_stays_above_counts_whole_trapezoids(run_dir: Path) -> None:
    log = run_dir / "scenario_events.jsonl"
    write(log, {"step": 20, "scenario": "domain_shift", "event": "start"})
    write(
        run_dir / "metrics.jsonl",
        *(
            {"step": step, "val/loss": loss}
            for step, loss in ((10, 4.0), (20, 2.0), (30, 3.0), (50, 2.5), (60, 1.0), (70, 1.5))
        ),
    )
    found = excess_and_recovery(log, read_course(run_dir / "metrics.jsonl"))
    # 10 x 1 / 2, 20 x (1 + 0.5) / 2, then from 0.5 above to 1 below within 10 steps.
    assert found["excess_loss"] == pytest.approx(5.0 + 15.0 + 0.5 * (10 / 3) / 2)
    assert (found["recovery_steps"], found["recovered"]) == (40.0, 1.0)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((), (10.0, 1.0)), (({"step": 35, "scenario": "domain_shift", "event": "end"},), (5.0, 1.0))],
)
def test_a_change_that_lasts_is_lived_with_from_its_start(
    run_dir: Path, ends: tuple[dict[str, Any], ...], expected: tuple[float, float]
) -> None:
    log = run_dir / "scenario_events.jsonl"
    write(log, {"step": 30, "scenario": "domain_shift", "event": "start"}, *ends)
    found = excess_and_recovery(log, read_course(run_dir / "metrics.jsonl"))
    assert (found["recovery_steps"], found["recovered"]) == expected


def test_wall_figures_stand_apart(run_dir: Path) -> None:
    assert wall_figures(run_dir) == {"seconds": 7.5, "tokens_per_second": 100.0}
    assert not {"seconds", "tokens_per_second"} & run_metrics(run_dir).keys()


@pytest.mark.parametrize("text", ["model: [", "model:\n  d_modle: 3\n", "- 1\n", None])
def test_a_configuration_that_is_none_is_refused(run_dir: Path, text: str | None) -> None:
    path = run_dir / "config.yaml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(StorageError) as caught:
        run_metrics(run_dir)
    assert str(caught.value) == (
        f"bench: {path} cannot be read, expected the configuration of a run; run the job again"
    )


@pytest.mark.parametrize(("key", "value"), [("val/loss", None), ("moe/L0/num_experts", "8")])
def test_a_checkpoint_without_its_numbers_is_refused(run_dir: Path, key: str, value: Any) -> None:
    path = run_dir / "metrics.jsonl"
    write(path, {"step": 1}, {"step": 2, "val/loss": 2.0, key: value})
    with pytest.raises(StorageError) as caught:
        run_metrics(run_dir)
    assert str(caught.value) == (
        f"bench: {path}, line 2: {key}={value!r}, expected a finite number; run the job again"
    )


def test_a_folder_without_a_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        run_metrics(tmp_path)
    assert str(caught.value) == (
        f"bench: {tmp_path / 'summary.json'} cannot be read, expected the summary of a finished "
        f"run; run the job again"
    )
