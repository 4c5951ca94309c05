"""The parts of a replay: comparing, asking for another history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.lifecycle.signal_builders import expert, hogged, layer

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay import signals as replay_signals
from chronorun.analysis.replay.config import changed_fields, load_config, overridden
from chronorun.analysis.replay.lines import (
    MISSING,
    Differs,
    Line,
    LineStream,
    check,
    first_difference,
)
from chronorun.analysis.replay.projection import OtherHistory
from chronorun.analysis.replay.whatif import Made, WhatIf
from chronorun.config.lifecycle import LifecycleConfig, TwoModeUse
from chronorun.config.run import RunConfig
from chronorun.errors import StorageError, UserError
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.record.evaluations import signals_checksum

# --- comparing


@pytest.mark.parametrize(
    ("logged", "derived", "expected"),
    [
        ({"a": [1, {"b": 0.1}]}, {"a": [1, {"b": 0.1}]}, None),
        ({"a": [1, {"b": 0.1}]}, {"a": [1, {"b": 0.10000000000000002}]},
         ("x.a[1].b", 0.1, 0.10000000000000002)),
        ({"a": 1}, {}, ("x.a", 1, MISSING)),
        ([1], [1, 2], ("x[1]", MISSING, 2)),
        (1, True, ("x", 1, True)),
        (0, 0.0, None),
        ([], {}, ("x", [], {})),
    ],
)  # fmt: skip
def test_the_first_difference_is_named_by_its_path(
    logged: Any, derived: Any, expected: Any
) -> None:
    assert first_difference(logged, derived, "x") == expected


def test_a_difference_says_where_it_is() -> None:
    line = Line("a.jsonl", 7, {"step": 30, "layer_id": 1, "x": 2.0}, Path())
    with pytest.raises(Differs) as caught:
        check(line, {"step": 30, "x": 3.0})
    d = caught.value.difference
    assert (d.file, d.line, d.field, d.logged, d.derived) == ("a.jsonl", 7, "x", 2.0, 3.0)
    assert (d.step, d.layer_id) == (30, 1)


def test_a_record_of_another_shape_is_a_damaged_file() -> None:
    line = Line("basins.jsonl", 3, {"share": "much"}, Path("run"))
    with pytest.raises(StorageError, match=r"replay: run/basins.jsonl line 3 is not what it"):
        line.typed(replay_signals.BasinFields)


def test_a_stream_is_empty_where_a_run_has_no_such_log(tmp_path: Path) -> None:
    stream = LineStream(Run(tmp_path), "basins")
    assert stream.peek() is None
    stream.expect_end()
    with pytest.raises(Differs) as caught:
        stream.expect(10, "a basin", 0)
    assert (caught.value.difference.line, caught.value.difference.logged) == (1, MISSING)


def test_a_seal_breaks_with_any_digit() -> None:
    signals = {"share": 0.1234567890123456}
    assert signals_checksum(signals) == signals_checksum(dict(signals))
    assert signals_checksum(signals) != signals_checksum({"share": 0.1234567890123457})


def verdict(action: Action, expert_id: str, seq: int = 0, **more: Any) -> Verdict:
    return Verdict(Candidate(action, 0, expert_id, "why", 1, **more), Status.executed, seq=seq)


# --- the configuration


def saved(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_only_what_decides_is_read_and_interpolations_are_resolved(tmp_path: Path) -> None:
    folder = saved(
        tmp_path,
        "run_id: r\n"
        "model: {num_experts: 4}\n"
        "lifecycle:\n  enabled: true\n  prune_patience: ${model.num_experts}\n"
        "  split_two_mode: 'off'\n"
        "tracking: {secret: '${oc.env:NOT_SET_ANYWHERE}'}\n",
    )
    config = load_config(folder)
    assert (config.run_id, config.lifecycle.prune_patience) == ("r", 4)
    assert config.lifecycle.split_two_mode is TwoModeUse.off


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder \(no config\.yaml\)"):
        load_config(tmp_path)
    with pytest.raises(
        StorageError,
        match=r"configuration \(no mapping\); restore the file",
    ):
        load_config(saved(tmp_path, "[1, 2]\n"))
    with pytest.raises(StorageError, match=r"lifecycle\.prune_patience=much"):
        load_config(saved(tmp_path, "lifecycle: {prune_patience: much}\n"))


def test_a_preset_replaces_all_but_what_the_run_did() -> None:
    config = RunConfig(lifecycle=LifecycleConfig(dry_run=True, prune_patience=77))
    other = overridden(config, ["lifecycle=aggressive", "lifecycle.spawn_patience=9"])
    assert (other.lifecycle.prune_patience, other.lifecycle.spawn_patience) == (4, 9)
    assert other.lifecycle.dry_run


def test_an_actions_group_replaces_only_its_fields() -> None:
    config = RunConfig(lifecycle=LifecycleConfig(prune_patience=77))
    other = overridden(config, ["lifecycle/split=eager"])
    assert set(changed_fields(config, other)) == {
        "lifecycle.split_patience",
        "lifecycle.split_share_ratio",
        "lifecycle.split_cooldown_per_expert",
    }


@pytest.mark.parametrize("override", ["lifecycle=off", "governance=off", "governance.enabled=true"])
def test_what_a_run_did_is_no_question_to_its_logs(override: str) -> None:
    with pytest.raises(UserError, match="expected a field that decisions are derived from"):
        overridden(RunConfig(), [override])


# --- another history


def test_another_history_keeps_whom_it_did_not_prune() -> None:
    history = OtherHistory()
    history.see([layer([expert(0, 0.5), expert(1, 0.5), expert(2, 0.0, ExpertState.dormant)])])
    history.logged([verdict(Action.PRUNE, "L0_E2")])
    adapted = history.adapt(layer([expert(0, 0.5), expert(1, 0.5)]))
    assert [(e.expert_id, e.state) for e in adapted.experts][2:] == [("L0_E2", ExpertState.dormant)]
    history.other([verdict(Action.PRUNE, "L0_E2")])
    assert len(history.adapt(layer([expert(0, 0.5), expert(1, 0.5)])).experts) == 2


def test_a_child_that_was_not_split_off_leaves_its_share_to_its_parent() -> None:
    history = OtherHistory()
    split = verdict(Action.SPLIT, "L0_E2", parent_id="L0_E0")
    history.logged([split])
    child = expert(2, 0.25, parent_id="L0_E0", twin_of="L0_E0")
    signals = layer([expert(0, 0.25), expert(1, 0.5), child])
    adapted = history.adapt(signals)
    assert [(e.expert_id, e.share) for e in adapted.experts] == [("L0_E0", 0.5), ("L0_E1", 0.5)]
    history.other([split])
    assert history.adapt(signals).experts == signals.experts


def test_signals_of_the_same_history_stay_as_they_are() -> None:
    assert OtherHistory().adapt(hogged()) == hogged()


def made(action: str, name: str, step: int) -> Made:
    return Made(action, 0, name, None, None, f"{action} {name}", step)


def test_decisions_are_paired_by_what_they_do_to_whom() -> None:
    found = WhatIf(
        {},
        exact_until=20,
        logged=[made("PRUNE", "A", 30), made("PRUNE", "B", 40), made("SPLIT", "C", 10)],
        derived=[made("PRUNE", "A", 20), made("SPLIT", "C", 10), made("SPLIT", "C", 50)],
    )
    told = [(c.kind, c.step, c.would_be_step, found.is_exact(c)) for c in found.changes()]
    assert told == [
        ("earlier", 30, 20, True),
        ("fewer", 40, None, False),
        ("more", None, 50, False),
    ]
