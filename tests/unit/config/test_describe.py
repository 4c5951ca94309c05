"""The schema described for people: every field has a meaning; tables and defaults are true."""

from __future__ import annotations

import pytest

from chronorun.config.describe import all_fields, flatten
from chronorun.config.paths import group_options, groups, option_summary
from chronorun.config.reference import default_run_fields, markdown_table


def test_every_field_has_a_meaning() -> None:
    assert [info.key for info in all_fields() if not info.help] == []


def test_every_option_has_a_summary() -> None:
    missing = [(g, o) for g in groups() for o in group_options(g) if not option_summary(g, o)]
    assert missing == []


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("model.top_k", "an integer >= 1"),
        ("model.d_ff", "an integer >= 1 or null"),
        ("optimizer.schedule", "one of cosine, wsd, constant"),
        ("training.keep_best", "one of true, false"),
        ("data.files", "a list such as [a,b]"),
        ("optimizer.lr", "a number > 0"),
        ("resume", "text or null"),
    ],
)
def test_what_a_field_takes_is_said_in_words(key: str, expected: str) -> None:
    assert next(info.expected for info in all_fields() if info.key == key) == expected


def test_defaults_come_from_the_composed_run() -> None:
    defaults = {info.key: info.default for info in default_run_fields()}
    assert defaults["model.d_model"] == "128"
    assert defaults["data.files"] == "[]"
    assert defaults["router.gate_order"] == "auto"
    assert defaults["run_id"] == "<fresh>"


def test_the_table_has_a_row_for_each_field_of_the_group() -> None:
    rows = markdown_table("optimizer").splitlines()
    keys = [info.key for info in all_fields() if info.group == "optimizer"]
    assert [row.split("`")[1] for row in rows[2:]] == keys
    assert {row.count(" | ") for row in rows[2:]} == {4}


def test_flatten_gives_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
