"""Logs that anyone may have written: shown harmlessly, or refused in one line."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from report_runs import SEED_RECORD
from unit.analysis.inspect_here import Inspect, decision, errors, inspect, write_log

__all__ = ["inspect"]

CONTROLS = "".join(
    c
    for c in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(c) in ("Cc", "Cf") or c in "\u2028\u2029"
)
MARKUP = (
    "[red]x[/red]",
    "[/]",
    "[/red]",
    "[bold",
    "[link=http://x]y[/link]",
    "[@click=app.quit]z",
    ":smile:",
    "\\[",
    "{share}",
    "{0.__class__}",
    "%s%n",
)
VIEWS: tuple[tuple[str, ...], ...] = ((), ("--json",), ("--csv",), ("--why", "L0_E1"))


FOLLOWED = (*VIEWS, ("--follow",), ("--follow", "--json"), ("--follow", "--csv"))


def ended(folder: Path, run_id: str) -> None:
    """Say that the run is over, so that following it ends."""
    summary = {"run_id": run_id, "status": "completed"}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def harmed(text: str) -> list[str]:
    return sorted({repr(c) for c in text if c in CONTROLS and c != "\n"})


def texts(value: str) -> list[dict[str, Any]]:
    """Return a record with a text in each place that holds one, and its expert's own name."""
    return [
        decision(seq=0),
        decision(
            seq=1,
            run_id=value,
            action=value,
            expert_id=value,
            parent_id=value,
            partner_id=value,
            reason=value,
            metrics_at_decision={value or "k": value, "share": 1.0},
            config_snapshot={value or "k": value},
            experts_before=[value],
            experts_after=[value, "b"],
        ),
        decision(seq=2, action="SPLIT", expert_id=value, parent_id="L0_E1", reason=value),
        decision(seq=3, action="MERGE", expert_id="L0_E1", partner_id=value),
    ]


@pytest.mark.parametrize("flags", FOLLOWED)
@pytest.mark.parametrize("piece", range(0, len(CONTROLS), 40))
def test_no_control_character_reaches_the_terminal(
    inspect: Inspect, tmp_path: Path, flags: tuple[str, ...], piece: int
) -> None:
    hostile = CONTROLS[piece : piece + 40]
    write_log(tmp_path / "lifecycle_decisions.jsonl", texts(hostile))
    ended(tmp_path, hostile)
    shown = inspect(".", *flags)
    assert shown.code == 0
    assert harmed(shown.out + shown.err) == []


@pytest.mark.parametrize("flags", FOLLOWED)
@pytest.mark.parametrize("words", MARKUP)
def test_markup_is_shown_as_it_stands(
    inspect: Inspect, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    write_log(tmp_path / "lifecycle_decisions.jsonl", texts(words))
    ended(tmp_path, words)
    shown = inspect(".", *flags, width=200)
    assert shown.code == 0
    assert (json.dumps(words)[1:-1] if "--json" in flags else words) in shown.out


@pytest.mark.parametrize(
    "record",
    [
        {
            "layers": [{"layer_id": 0, "\x1b[2J": 1.0, "num_experts": 3}],
            "step": 1,
            "alerts": ["\x1b]0;"],
        },
        {"from": "\x1b[31m", "to": "\u202e", "reason": "[/]", "step": 1, "expert_id": "\x9b"},
        {"candidates": [{"action": "\x07", "status": "[red]", "why": "\x1b[H"}], "counters": {}},
        {"expert_id": "\x1b[2J", "share": 0.5, "step": 1},
        {"scenario": "\x1b[2J", "event": "[/]", "step": 1},
        {"\x1b[2J/x": 1.0, "step": 1, "run_id": "\x9b31m"},
        {
            "computed": {"\x1b": 1},
            "actuator": {},
            "notes": ["[/]\x1b[2J"],
            "layer_id": 0,
            "step": 2,
        },
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",), ("--csv",)])
def test_other_logs_are_harmless_too(
    inspect: Inspect, tmp_path: Path, record: dict[str, Any], flags: tuple[str, ...]
) -> None:
    write_log(tmp_path / "log.jsonl", [record])
    shown = inspect("log.jsonl", *flags)
    assert shown.code == 0
    assert harmed(shown.out + shown.err) == []


def test_names_of_files_and_arguments_are_harmless(inspect: Inspect, tmp_path: Path) -> None:
    write_log(tmp_path / "a\x1b[2J[red]" / "lifecycle_decisions.jsonl", [SEED_RECORD])
    for flags in ((), ("--json",), ("--why", "\x1b[31m")):
        shown = inspect("a\x1b[2J[red]", *flags)
        assert harmed(shown.out + shown.err) == []
    assert harmed(inspect("\x1b[2J").err) == []


WRONG = [None, True, -1, 1e300, 10**400, "x", [], {}, [[]], {"a": {"b": []}}, float("nan")]


@pytest.mark.parametrize("value", WRONG, ids=[repr(v)[:12] for v in WRONG])
@pytest.mark.parametrize("flags", VIEWS)
def test_wrong_types_are_passed_over(
    inspect: Inspect, tmp_path: Path, value: Any, flags: tuple[str, ...]
) -> None:
    records = [decision(seq=0), *(decision() | {name: value} for name in decision())]
    write_log(tmp_path / "lifecycle_decisions.jsonl", records)
    shown = inspect(".", *flags)
    assert (shown.code, shown.err) == (0, "")
    if flags == ("--json",):
        found = json.loads(shown.out)
        assert errors(found) == []
        assert len(found["actions"]) == len(records)


@pytest.mark.parametrize("log", ["snapshots", "metrics", "expert_transitions"])
@pytest.mark.parametrize("value", WRONG, ids=[repr(v)[:12] for v in WRONG])
def test_wrong_types_elsewhere_are_passed_over(
    inspect: Inspect, tmp_path: Path, value: Any, log: str
) -> None:
    record = {
        "snapshots": {"step": 1, "layers": [{"layer_id": 0, "utilization_shares": [1.0]}]},
        "metrics": {"step": 1, "train/loss": 1.0, "val/loss": 1.0},
        "expert_transitions": {"step": 1, "expert_id": "L0_E1", "from": None, "to": "active"},
    }[log]
    write_log(tmp_path / f"{log}.jsonl", [record, *(record | {name: value} for name in record)])
    write_log(tmp_path / "lifecycle_decisions.jsonl", [decision()])
    for arguments in ((".",), (".", "--why", "L0_E1"), (f"{log}.jsonl",)):
        shown = inspect(*arguments)
        assert (shown.code, shown.err) == (0, "")


def test_an_enormous_value_is_cut(inspect: Inspect, tmp_path: Path) -> None:
    record = decision(reason="x" * (3 << 20), metrics_at_decision={"k": "y" * (3 << 20)})
    write_log(tmp_path / "lifecycle_decisions.jsonl", [record, decision()])
    for flags in VIEWS:
        shown = inspect(".", *flags)
        assert shown.code == 0
        assert len(shown.out) < 20_000


def test_a_number_of_many_digits_and_deep_nesting_are_refused_in_one_line(
    inspect: Inspect, tmp_path: Path
) -> None:
    path = tmp_path / "lifecycle_decisions.jsonl"
    for bad in ('{"step":' + "1" * 5000 + "}", '{"x":' + "[" * 200_000 + "]" * 200_000 + "}"):
        path.write_text(json.dumps(decision()) + "\n" + bad + "\n" + json.dumps(decision()) + "\n")
        shown = inspect(".")
        assert (shown.code, shown.out) == (3, "")
        assert shown.err.startswith(
            "chronorun: error: log: lifecycle_decisions.jsonl line 2 is not JSON ("
        )
        assert shown.err.count("\n") == 1


@pytest.mark.parametrize("flags", VIEWS)
@pytest.mark.parametrize("bad", ['{"step": 1', "[]", "7", "\xff", '{"a": 1} x'])
def test_a_bad_line_in_the_middle_is_named(
    inspect: Inspect, tmp_path: Path, flags: tuple[str, ...], bad: str
) -> None:
    good = [json.dumps(decision(seq=i)) for i in range(2000)]
    lines = [*good[:1234], bad, "", *good[1234:]]
    (tmp_path / "lifecycle_decisions.jsonl").write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    shown = inspect(".", *flags)
    assert (shown.code, shown.out) == (3, "")
    assert shown.err.startswith("chronorun: error: log: lifecycle_decisions.jsonl line 1235 is ")
    assert shown.err.count("\n") == 1


def test_a_torn_last_line_is_noted(inspect: Inspect, tmp_path: Path) -> None:
    text = json.dumps(decision()) + "\n" + json.dumps(decision())[:50]
    (tmp_path / "lifecycle_decisions.jsonl").write_text(text)
    shown = inspect(".")
    assert shown.code == 0
    assert "note: lifecycle_decisions.jsonl line 2 is torn and was skipped" in shown.out
    found = json.loads(inspect(".", "--json").out)
    assert (len(found["actions"]), len(found["notices"])) == (1, 1)


def test_an_unknown_version_is_noted(inspect: Inspect, tmp_path: Path) -> None:
    write_log(tmp_path / "lifecycle_decisions.jsonl", [decision(schema_version=7, novel=[1])])
    shown = inspect(".")
    assert shown.code == 0
    assert "schema_version 7 is not 1" in shown.out


def test_circles_and_long_lines_of_descent_end(inspect: Inspect, tmp_path: Path) -> None:
    births = [
        decision(action="SPAWN", expert_id=f"E{i}", parent_id=f"E{i - 1}", seq=i, step=i)
        for i in range(1, 3000)
    ]
    circle = [
        decision(action="SPAWN", expert_id=a, parent_id=b, layer_id=1)
        for a, b in (("A", "B"), ("B", "A"), ("C", "C"))
    ]
    write_log(tmp_path / "lifecycle_decisions.jsonl", [*births, *circle])
    shown = inspect(".")
    assert shown.code == 0
    assert len(shown.out.splitlines()) < 300
    assert inspect(".", "--expert", "A").code == 0
