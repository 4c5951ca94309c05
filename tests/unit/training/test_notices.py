"""What is told before a run starts: the schedule does not fit it, a limit acts by parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from chronorun.config.model import RouterConfig
from chronorun.config.run import RunConfig
from chronorun.config.scenario import ScenarioConfig, ScenarioKind
from chronorun.config.training import OptimizerConfig, Schedule, TrainingConfig
from chronorun.training.notices import planned_steps, start_notices
from chronorun.training.schedule import learning_rate


def run(steps: int, warmup: int = 10, **optimizer: object) -> RunConfig:
    return RunConfig(
        training=TrainingConfig(max_steps=steps),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=warmup, **optimizer),  # type: ignore[arg-type]
    )


def notices(config: RunConfig, step: int = 0, planned: int | None = None) -> list[str]:
    return list(start_notices(config, step, planned))


def test_nothing_is_told_of_a_run_as_it_should_be() -> None:
    assert notices(run(100)) == []
    assert notices(run(100), 50, 100) == []


@pytest.mark.parametrize("schedule", [Schedule.cosine, Schedule.wsd])
def test_a_finished_run_that_goes_on_is_told_that_its_learning_rate_jumps(
    schedule: Schedule,
) -> None:
    config = run(200, schedule=schedule)
    old = learning_rate(100, config.optimizer, 100)
    new = learning_rate(100, config.optimizer, 200)
    assert new > 2 * old
    assert notices(config, 100, 100) == [
        f"the learning rate jumps from {old:.3g} to {new:.3g} at step 100: the schedule now ends "
        f"at training.max_steps=200, not at 100"
    ]


def test_so_is_one_that_was_stopped_on_its_way_down() -> None:
    (told,) = notices(run(1000), 90, 100)
    assert told.startswith("the learning rate jumps from ")


@pytest.mark.parametrize(
    ("config", "step"),
    [
        (run(200, schedule=Schedule.constant), 100),
        (run(200), 5),
        (run(200), 200),
        (run(120), 12),
    ],
    ids=["constant", "in_the_warmup", "done", "hardly_any"],
)
def test_no_jump_is_told_where_there_is_none(config: RunConfig, step: int) -> None:
    assert notices(config, step, 100) == []


def test_a_warmup_longer_than_the_run_is_told() -> None:
    told = (
        "optimizer.warmup_steps=50 is longer than the run of 20 steps: the learning rate gets to "
        "40% of optimizer.lr; lower optimizer.warmup_steps"
    )
    assert notices(run(20, warmup=50)) == [told]
    assert notices(run(20, warmup=50), 10, 20) == [told]
    assert notices(run(20, warmup=20)) == []


@pytest.mark.parametrize("kind", [ScenarioKind.none, ScenarioKind.capacity_whiplash])
def test_a_capacity_that_limits_micro_batches_is_told(kind: ScenarioKind) -> None:
    config = run(100)
    config.training.grad_accum_steps = 4
    assert notices(config) == []
    config.scenario = ScenarioConfig(kind=kind)
    config.router = RouterConfig(capacity_factor=1.25 if kind is ScenarioKind.none else None)
    assert notices(config) == [
        "the capacity factor limits each of the training.grad_accum_steps=4 micro-batches by "
        "itself: what it drops is not what it would drop of the whole batch"
    ]
    config.training.grad_accum_steps = 1
    assert notices(config) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("training: {max_steps: 7}", 7),
        ("training: {max_steps: many}", None),
        ("training: [", None),
        ("a: 1", None),
        (None, None),
    ],
)
def test_the_length_planned_is_that_of_the_saved_configuration(
    tmp_path: Path, text: str | None, found: int | None
) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    assert planned_steps(tmp_path) == found
