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
