"""``chronorun sample``: a model's text does no harm to a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chronorun.core.text import harmless

pytest_plugins = ("cli_in_process",)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []
    stand_in = ModuleType("chronorun.training.sampling")

    def sample_text(*arguments: object) -> str:
        calls.append(arguments)
        return "f(x):\n\treturn \x1b]0;title\x07\u202e"

    stand_in.sample_text = sample_text  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chronorun.training.sampling", stand_in)
    return calls


def test_sample_escapes_control_characters(
    chronorun_here: Callable[..., Any], asked: list[tuple[object, ...]]
) -> None:
    done = chronorun_here("sample", "outputs/a", "--prompt", "def ")
    assert done.code == 0
    assert done.out == "def f(x):\n\treturn \\x1b]0;title\\x07\\u202e\n"
    assert asked == [(Path("outputs/a"), "def ", 200, 0.8, 40, 0, "last")]


def test_sample_as_json_keeps_every_character(
    chronorun_here: Callable[..., Any], asked: list[tuple[object, ...]]
) -> None:
    done = chronorun_here(
        *("sample", "outputs/a", "--prompt", "def ", "--json", "--tokens", "9", "--seed", "4"),
        *("--top-k", "3", "--temperature", "0", "--checkpoint", "best"),
    )
    record = json.loads(done.out)
    assert record["continuation"] == "f(x):\n\treturn \x1b]0;title\x07\u202e"
    assert asked == [(Path("outputs/a"), "def ", 9, 0.0, 3, 4, "best")]


def test_harmless_leaves_ordinary_text_alone() -> None:
    assert harmless("naïve 東京 🙂 \\x1b") == "naïve 東京 🙂 \\x1b"
    assert harmless("a\nb\x00\x9b\ud800", keep="\n") == "a\nb\\x00\\x9b\\ud800"
