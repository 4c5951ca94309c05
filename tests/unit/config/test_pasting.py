"""Commands that are printed do what they say when they are pasted into a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from chronorun.config.overrides import parse_overrides
from chronorun.config.pasting import command_line, path_word, resume_command

NAMES = [
    "outputs/r",
    "my out/r",
    "a,b/r",
    "a=1/r",
    "[old] runs/r",
    "{x}/r",
    "it's/r",
    'say "hi"/r',
    "cost $5/r",
    "`date`/r",
    "a\\b/r",
    "a:b/r",
    "größe/r",
    "~x/r",
    "auto",
    "null",
    "-r",
    "12",
    "1e5",
    "#1/r",
    "a\tb/r",
    "wow!/r",
    "(x)/r",
    "seed=0",
]


def resumed(words: list[str]) -> Path:
    """Return the folder that the overrides of a command resume."""
    assert words[:2] == ["chronorun", "train"]
    (override,) = parse_overrides(words[2:])
    assert override.key_or_group == "resume"
    return Path(str(override.value()))


@pytest.mark.parametrize("name", NAMES)
def test_a_resume_command_names_its_folder_to_bash_and_to_hydra(name: str) -> None:
    script = f"args() {{ printf '%s\\0' \"$@\"; }}; args {resume_command(name)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    words = [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]
    assert resumed(words) == Path(name)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r$"), min_size=1))
def test_any_printable_folder_survives_both_quotings(name: str) -> None:
    command = resume_command(name)
    assert "\n" not in command
    if "$'" in command:  # shlex does not know the quoting of control characters
        return
    assert resumed(shlex.split(command)) == Path(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_one_word_and_no_flag(name: str) -> None:
    script = f"printf '%s\\0' {path_word(name)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    (word,) = done.stdout.split(b"\0")[:-1]
    assert Path(os.fsdecode(word)) == Path(name)
    assert not word.startswith(b"-")


def test_a_plain_command_is_shown_as_it_was_typed() -> None:
    assert resume_command("outputs/run") == "chronorun train resume=outputs/run"
    assert command_line(["chronorun", "bench", "bench=quick"]) == "chronorun bench bench=quick"
