"""The lifecycle's numbers: the published defaults, their ranges, and what conf/ makes of them."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from omegaconf import OmegaConf

from chronorun.config.compose import compose_run
from chronorun.config.describe import fields_of, flatten
from chronorun.config.lifecycle import LifecycleConfig, SpawnInit
from chronorun.config.paths import conf_dir, group_options
from chronorun.errors import UserError

PRESETS = ("aggressive", "conservative", "default", "dry_run", "off")
ACTIONS = ("spawn", "prune", "split", "merge")
OPTIONS = ("default", "eager", "off", "patient")
CORRECT = "correct the override or the config file"

# The dataclass of the seed, in its order.
PUBLISHED = {
    "spawn_patience": 5,
    "spawn_cooldown_steps": 500,
    "max_spawns_per_cycle": 1,
    "max_experts_per_layer": 16,
    "spawn_init_strategy": SpawnInit.clone_and_perturb,
    "prune_patience": 10,
    "max_prunes_per_cycle": 1,
    "min_experts_per_layer": 2,
    "split_share_threshold": 0.4,
    "split_patience": 5,
    "split_perturbation_scale": 0.01,
    "split_cooldown_per_expert": 1000,
    "merge_similarity_threshold": 0.95,
    "merge_overlap_threshold": 0.8,
    "merge_patience": 8,
    "basin_window_size": 50,
    "lifecycle_eval_interval": 5,
    "cooling_period": 3,
}


def composed(*overrides: str) -> dict[str, Any]:
    """Return a run's configuration by dotted key."""
    _, node = compose_run([*overrides, "run_id=x"])
    return flatten(OmegaConf.to_container(node))


def own_keys(group: str, option: str) -> dict[str, Any]:
    """Return what one file sets itself, by dotted key."""
    node = OmegaConf.load(conf_dir() / group / f"{option}.yaml")
    found = OmegaConf.to_container(node)
    assert isinstance(found, dict)
    return {f"lifecycle.{key}": value for key, value in found.items() if key != "defaults"}


def belongs_to(action: str, key: str) -> bool:
    group, _, field = key.partition(".")
    names = (f"max_{action}s_per_cycle", "revive_enabled" if action == "spawn" else "")
    return group == "lifecycle" and (field.startswith(f"{action}_") or field in names)


def test_the_published_defaults_hold_in_code_and_in_the_preset_default() -> None:
    run = compose_run(["lifecycle=default"])[0]
    for config in (LifecycleConfig(), run.lifecycle):
        assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED
    assert run.lifecycle == LifecycleConfig()


@pytest.mark.parametrize(
    ("field", "wrong", "rule"),
    [
        ("lifecycle_eval_interval", 0, ">= 1"),
        ("lifecycle_warmup_steps", -1, ">= 0"),
        ("basin_window_size", 1, ">= 2"),
        ("spawn_patience", 0, ">= 1"),
        ("max_experts_per_layer", 1, ">= 2"),
        ("spawn_entropy_threshold", 1.5, "> 0 and <= 1"),
        ("spawn_ramp_offset", 0.5, "<= 0"),
        ("prune_lens_grace", -1, ">= 0"),
        ("min_experts_per_layer", 0, ">= 1"),
        ("split_share_threshold", 0.0, "> 0 and <= 1"),
        ("split_share_ratio", 1.0, "> 1"),
        ("split_release_shock", 0.0, "> 0"),
        ("merge_similarity_threshold", 1.01, ">= -1 and <= 1"),
        ("harm_tolerance", float("nan"), ">= 0"),
        ("suspect_deviations", float("inf"), "> 0"),
        ("rewarm_steps", -1, ">= 0"),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, wrong: float, rule: str) -> None:
    with pytest.raises(UserError) as caught:
        LifecycleConfig(**{field: wrong})
    assert str(caught.value) == (
        f"configuration: lifecycle.{field}={wrong}, expected {rule}; {CORRECT}"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"max_experts_per_layer": 4, "min_experts_per_layer": 5},
            "configuration: lifecycle.max_experts_per_layer=4, expected >= "
            "lifecycle.min_experts_per_layer=5; change one of the two",
        ),
        (
            {"similarity_cosine_weight": 0.0, "similarity_overlap_weight": 0.0},
            "configuration: lifecycle.similarity_cosine_weight=0 and "
            "lifecycle.similarity_overlap_weight=0, expected one above 0; raise one of the two",
        ),
        (
            {"spawn_init_strategy": "mean_clusters"},
            "configuration: lifecycle.spawn_init_strategy=mean_clusters, expected one of "
            "clone_and_perturb, mean_cluster, random; did you mean mean_cluster?",
        ),
        (
            {"cross_layer": 7},
            "configuration: lifecycle.cross_layer=7, expected one of none, depth_balance; "
            "choose one of them",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        LifecycleConfig(**fields)
    assert str(caught.value) == message


def test_the_command_line_gets_the_same_lines() -> None:
    for override, message in (
        (
            "lifecycle.prune_patience=0",
            f"configuration: lifecycle.prune_patience=0, expected >= 1; {CORRECT}",
        ),
        (
            "lifecycle.merge_weights=shares",
            "configuration: lifecycle.merge_weights=shares, expected one of uniform, share; "
            "did you mean share?",
        ),
        (
            "lifecycle/spawn=eagr",
            "command line: lifecycle/spawn=eagr, expected one of default, eager, off, patient; "
            "did you mean eager?",
        ),
        (
            "lifecycle/spwan=eager",
            "command line: lifecycle/spwan=eager, expected a known key or group; "
            "did you mean lifecycle/spawn?",
        ),
    ):
        with pytest.raises(UserError) as caught:
            compose_run([override])
        assert str(caught.value) == message


def test_every_choice_is_taken_by_its_name() -> None:
    choices = {
        info.key: info.choices
        for info in fields_of(LifecycleConfig)
        if isinstance(getattr(LifecycleConfig(), info.key), Enum)
    }
    assert len(choices) == 10
    for field, names in choices.items():
        for name in names:
            config = LifecycleConfig(**{field: name})  # type: ignore[arg-type]
            assert getattr(config, field).name == name
    last = {field: names[-1] for field, names in choices.items()}
    run = compose_run([f"lifecycle.{field}={name}" for field, name in last.items()])[0]
    assert {field: getattr(run.lifecycle, field).name for field in last} == last


def test_the_warm_up_follows_the_learning_rates_unless_given() -> None:
    assert LifecycleConfig().warmup(50) == 200
    assert LifecycleConfig().warmup(300) == 600
    assert LifecycleConfig(lifecycle_warmup_steps=0).warmup(300) == 0


def test_the_options_are_those_tested_here() -> None:
    assert group_options("lifecycle") == list(PRESETS)
    assert [group_options(f"lifecycle/{action}") for action in ACTIONS] == [list(OPTIONS)] * 4


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_only_the_lifecycle(preset: str) -> None:
    plain, chosen = composed(), composed(f"lifecycle={preset}")
    assert plain.keys() == chosen.keys()
    changed = {key for key in plain if plain[key] != chosen[key]}
    assert {key for key in changed if not key.startswith("lifecycle.")} == set()
    assert (changed == set()) == (preset == "off")


def test_presets_are_on_except_off_and_dry_run_alone_is_dry() -> None:
    found = {preset: compose_run([f"lifecycle={preset}"])[0].lifecycle for preset in PRESETS}
    assert [preset for preset in PRESETS if not found[preset].enabled] == ["off"]
    assert [preset for preset in PRESETS if found[preset].dry_run] == ["dry_run"]
    assert compose_run([])[0].lifecycle == found["off"]


def test_an_action_group_sets_fields_of_its_action_and_a_preset_none_of_them() -> None:
    for action in ACTIONS:
        for option in OPTIONS:
            foreign = [
                k for k in own_keys(f"lifecycle/{action}", option) if not belongs_to(action, k)
            ]
            assert foreign == [], (action, option)
        for preset in PRESETS:
            assert [k for k in own_keys("lifecycle", preset) if belongs_to(action, k)] == []


@pytest.mark.parametrize("shift", range(len(OPTIONS)))
@pytest.mark.parametrize("preset", PRESETS)
def test_chosen_action_groups_win_over_the_preset_and_leave_the_rest(
    preset: str, shift: int
) -> None:
    # A Latin square: the four shifts give every action every option.
    wanted = {
        action: OPTIONS[(place + shift) % len(OPTIONS)] for place, action in enumerate(ACTIONS)
    }
    plain, expected = composed(), composed(f"lifecycle={preset}")
    for action, option in wanted.items():
        fields = {key: value for key, value in plain.items() if belongs_to(action, key)}
        expected |= fields | own_keys(f"lifecycle/{action}", option)
    choices = [f"lifecycle/{action}={option}" for action, option in wanted.items()]
    assert composed(f"lifecycle={preset}", *choices) == expected


def test_actions_are_switched_one_by_one() -> None:
    config = compose_run(["lifecycle=aggressive", "lifecycle/spawn=off"])[0].lifecycle
    assert not config.spawn_enabled
    assert not config.revive_enabled
    assert config.prune_enabled
    assert config.prune_patience == 4


def test_a_field_wins_over_its_group() -> None:
    config = compose_run(["lifecycle.prune_patience=7", "lifecycle/prune=eager"])[0].lifecycle
    assert config.prune_patience == 7


def test_aggressive_acts_at_every_checkpoint_and_after_short_waits() -> None:
    config = compose_run(["lifecycle=aggressive"])[0].lifecycle
    assert config.lifecycle_eval_interval == 1
    assert {config.spawn_patience, config.split_patience, config.merge_patience} <= {2, 3}
    assert config.prune_patience == 4
    assert config.split_share_ratio == 1.5
    assert config.spawn_entropy_threshold == 0.85
    assert 60 <= config.spawn_cooldown_steps <= 100
    assert 60 <= config.split_cooldown_per_expert <= 100
    checkpoint = compose_run([])[0].training.eval_interval
    assert 60 <= config.reversal_cooldown_checkpoints * checkpoint <= 100


def test_conservative_waits_twice_as_long() -> None:
    usual = LifecycleConfig()
    config = compose_run(["lifecycle=conservative"])[0].lifecycle
    for field in (
        "lifecycle_eval_interval",
        "spawn_patience",
        "spawn_cooldown_steps",
        "prune_patience",
        "prune_lens_grace",
        "split_patience",
        "split_cooldown_per_expert",
        "merge_patience",
        "merge_min_age_steps",
        "reversal_cooldown_checkpoints",
        "probation_checkpoints",
    ):
        assert getattr(config, field) == 2 * getattr(usual, field), field
