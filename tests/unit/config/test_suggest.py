"""Suggestions name what a person most likely meant, or nothing."""

from __future__ import annotations

import pytest

from chronorun.config.suggest import nearest, next_step

NAMES = ("model.top_k", "model.num_experts", "training.max_steps", "model", "seed", "data")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("model.topk", "model.top_k"),
        ("optimizer.max_steps", "training.max_steps"),
        ("max_steps", "training.max_steps"),
        ("max_step", "training.max_steps"),
        ("sead", "seed"),
        ("DATA", "data"),
        ("zzz", None),
    ],
)
def test_the_nearest_name_is_found(wrong: str, right: str | None) -> None:
    assert nearest(wrong, NAMES) == right


def test_without_a_near_name_the_other_step_is_named() -> None:
    assert next_step("sead", NAMES, "look") == "did you mean seed?"
    assert next_step("zzz", NAMES, "look") == "look"
