"""``chronorun train --help`` is complete and fits a terminal."""

from __future__ import annotations

import re

import pytest

from chronorun.cli.help import train_help
from chronorun.config.describe import all_fields
from chronorun.config.paths import group_options, groups


@pytest.fixture(scope="module")
def page() -> str:
    return train_help()


def test_every_line_fits_80_columns(page: str) -> None:
    assert [line for line in page.splitlines() if len(line) > 80] == []


def test_every_group_option_and_field_is_there(page: str) -> None:
    for group in groups():
        assert f"\n  {group}=\n" in page
        for option in group_options(group):
            assert re.search(rf"^    [* ] {option}\b", page, re.MULTILINE), option
    for info in all_fields():
        assert f"\n    {info.key}=" in page


def test_defaults_are_those_of_a_run_and_options_are_marked(page: str) -> None:
    assert re.search(r"^    \* tiny ", page, re.MULTILINE)
    assert re.search(r"^    \* off ", page, re.MULTILINE)
    assert "training.max_steps=500\n        optimizer steps; >= 1\n" in page
    assert "cosine | wsd | constant" in page
    assert "run_id=<fresh>" in page


def test_the_lifecycle_has_meaning_unit_and_range(page: str) -> None:
    for text in (
        "lifecycle.spawn_patience=5\n"
        "        evaluations a layer must starve before a spawn; >= 1\n",
        "lifecycle.split_share_ratio=null\n"
        "        multiple of the even share above which an expert is also overloaded\n"
        "        (null: off); > 1\n",
        "lifecycle.split_two_mode=off\n",
        "zero_m | zero | inherit | scale | zero_no_rewarm\n",
    ):
        assert text in page, text


def test_an_action_of_the_lifecycle_has_its_own_options_and_default(page: str) -> None:
    for action in ("spawn", "prune", "split", "merge"):
        assert f"\n  lifecycle/{action}=\n    * default  " in page
