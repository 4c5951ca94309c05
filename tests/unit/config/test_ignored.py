"""An option that another choice leaves without effect is named."""

from __future__ import annotations

import pytest

from chronorun.config.compose import compose_run
from chronorun.config.ignored import ignored_options

OFF = "lifecycle is off; add lifecycle=default"


def ignored(*overrides: str) -> list[str]:
    config, _ = compose_run(overrides)
    return ignored_options(config, {text.partition("=")[0] for text in overrides})


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["data.files=x"], ["data.files"]),
        (["data=text", "data.files=x"], []),
        (["optimizer.wsd_decay_fraction=0.5"], ["optimizer.wsd_decay_fraction"]),
        (["optimizer=adamw_wsd", "optimizer.wsd_decay_fraction=0.5"], []),
        (["data.synthetic_seed=1", "data.synthetic_domains=3"], ["data.synthetic_domains"] * 2),
        (["data.column=body", "data.path=x", "data.domain_by=file"], ["data.column"] * 3),
        (["data=text", "data.files=x", "data.column=body", "data.domain_by=file"], []),
        (["data=hub", "data.path=x", "data.column=body"], []),
        (["model=nano"], []),
    ],
)
def test_only_what_was_given_and_has_no_effect_is_named(
    overrides: list[str], keys: list[str]
) -> None:
    messages = ignored(*overrides)
    assert len(messages) == len(keys)
    assert all(" has no effect: " in message for message in messages)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["lifecycle/spawn=eager"], [f"lifecycle/spawn has no effect: {OFF}"]),
        (["lifecycle=off", "lifecycle/merge=off"], [f"lifecycle/merge has no effect: {OFF}"]),
        (
            ["lifecycle.spawn_patience=2", "lifecycle.dry_run=true"],
            [
                f"lifecycle.dry_run has no effect: {OFF}",
                f"lifecycle.spawn_patience has no effect: {OFF}",
            ],
        ),
        (
            ["lifecycle=aggressive", "lifecycle.enabled=false", "lifecycle/split=default"],
            ["lifecycle/split has no effect: lifecycle.enabled is false"],
        ),
        (["lifecycle=off"], []),
        (["lifecycle.enabled=false"], []),
        (["lifecycle.enabled=true", "lifecycle.spawn_patience=2"], []),
        (["lifecycle=dry_run", "lifecycle/spawn=eager", "lifecycle.spawn_patience=2"], []),
    ],
)
def test_a_lifecycle_that_is_off_reads_nothing_but_its_switch(
    overrides: list[str], messages: list[str]
) -> None:
    assert ignored(*overrides) == messages


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["lifecycle/spawn=off"], []),
        (["lifecycle/spawn=off", "lifecycle.spawn_enabled=true", "lifecycle.spawn_patience=2"], []),
        (
            ["lifecycle/spawn=off", "lifecycle.spawn_patience=2"],
            [
                "lifecycle.spawn_patience has no effect: "
                "lifecycle.spawn_enabled and lifecycle.revive_enabled are false"
            ],
        ),
        # Revivals wait as long as spawns, but do not start as one.
        (
            [
                "lifecycle.spawn_enabled=false",
                "lifecycle.spawn_patience=2",
                "lifecycle.spawn_init_strategy=random",
            ],
            ["lifecycle.spawn_init_strategy has no effect: lifecycle.spawn_enabled is false"],
        ),
        (
            ["lifecycle/prune=eager", "lifecycle.prune_enabled=false"],
            ["lifecycle/prune has no effect: lifecycle.prune_enabled is false"],
        ),
        (
            ["lifecycle/merge=off", "lifecycle.merged_moments=share_weighted"],
            ["lifecycle.merged_moments has no effect: lifecycle.merge_enabled is false"],
        ),
        # Merges keep the floor too; only without both does nothing read it.
        (["lifecycle/prune=off", "lifecycle.min_experts_per_layer=4"], []),
        (
            ["lifecycle/prune=off", "lifecycle/merge=off", "lifecycle.min_experts_per_layer=4"],
            [
                "lifecycle.min_experts_per_layer has no effect: "
                "lifecycle.prune_enabled and lifecycle.merge_enabled are false"
            ],
        ),
        (
            ["lifecycle.split_two_mode_threshold=0.5"],
            ["lifecycle.split_two_mode_threshold has no effect: lifecycle.split_two_mode is off"],
        ),
        (
            ["lifecycle.split_release=fixed", "lifecycle.split_release_limit=9"],
            ["lifecycle.split_release_limit has no effect: lifecycle.split_release is fixed"],
        ),
        (
            ["lifecycle.split_release=at_once", "lifecycle.split_release_shock=0.1"],
            ["lifecycle.split_release_shock has no effect: lifecycle.split_release is at_once"],
        ),
        (
            ["lifecycle/split=off", "lifecycle.split_share_threshold=0.9"],
            ["lifecycle.split_share_threshold has no effect: lifecycle.split_enabled is false"],
        ),
    ],
)
def test_an_action_that_is_off_reads_none_of_its_fields(
    overrides: list[str], messages: list[str]
) -> None:
    assert ignored("lifecycle=default", *overrides) == messages


def test_a_split_threshold_out_of_reach_is_named_whether_given_or_not() -> None:
    out_of_reach = (
        "lifecycle.split_share_threshold=0.4 has no effect: with model.top_k=4 an expert's share "
        "is at most 0.25; lower the threshold or set lifecycle.split_share_ratio"
    )
    assert ignored("lifecycle=default", "model.top_k=4") == [out_of_reach]
    assert ignored("lifecycle=dry_run", "lifecycle.split_share_threshold=0.5") == [
        "lifecycle.split_share_threshold=0.5 has no effect: with model.top_k=2 an expert's share "
        "is at most 0.5; lower the threshold or set lifecycle.split_share_ratio"
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["lifecycle=default"],
        ["lifecycle=default", "lifecycle.split_share_threshold=0.49"],
        ["lifecycle=off", "model.top_k=4"],
        ["lifecycle=default", "model.top_k=4", "lifecycle/split=off"],
        ["lifecycle=aggressive", "model.top_k=4"],
        ["lifecycle=default", "model.top_k=4", "lifecycle.split_share_ratio=2"],
        ["lifecycle=default", "model.top_k=4", "lifecycle.split_two_mode=add"],
    ],
)
def test_a_split_that_can_happen_is_not_warned_of(overrides: list[str]) -> None:
    assert ignored(*overrides) == []
