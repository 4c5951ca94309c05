"""Overrides as people type them: letters of any language, and names that are no UTF-8."""

from __future__ import annotations

import pytest

from chronorun.config.overrides import parse_overrides
from chronorun.errors import UserError

LATIN_1 = "caf\udce9.txt"
"""What Python makes of a file name in Latin-1."""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("output_dir=книга", "книга"),
        ("output_dir=my größe/a-1", "my größe/a-1"),
        ("output_dir='книга, 2'", "книга, 2"),
        (f"output_dir={LATIN_1}", LATIN_1),
        (f"output_dir='{LATIN_1}'", LATIN_1),
        (f"data.files={LATIN_1}", [LATIN_1]),
        (f"data.files=[a.txt,{LATIN_1}, ü*.txt]", ["a.txt", LATIN_1, "ü*.txt"]),
        ("+data.files=é.txt", ["é.txt"]),
    ],
)
def test_letters_that_hydra_wants_quoted_need_no_quotes(text: str, value: object) -> None:
    (override,) = parse_overrides([text])
    assert override.value() == value
    # Hydra reads the text again.
    assert parse_overrides([str(override.input_line)])[0].value() == value


def test_foreign_letters_can_be_swept() -> None:
    (override,) = parse_overrides(["tracking.wandb.group=é,ü"])
    assert list(override.sweep_string_iterator()) == ["'é'", "'ü'"]


@pytest.mark.parametrize("text", ["é", "é=1", "output_dir=é'", "output_dir=[é"])
def test_what_no_quotes_could_mend_is_refused_as_it_was_typed(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_overrides([text])
    assert str(caught.value).startswith(f"command line: {text!r} is not understood, expected ")
