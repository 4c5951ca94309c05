"""The parts of a replay: comparing, keeping the books, asking for another history."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.lifecycle.signal_builders import expert, hogged, layer

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay import signals as replay_signals
from chronorun.analysis.replay.books import Books
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
from chronorun.analysis.replay.signals import seal_of, weight_deviation
from chronorun.analysis.replay.whatif import Made, WhatIf
from chronorun.config.lifecycle import LifecycleConfig, TwoModeUse
from chronorun.config.run import RunConfig
from chronorun.errors import StorageError, UserError
from chronorun.lifecycle.decide.actions import Action, Candidate, Status, Verdict
from chronorun.lifecycle.experts.basins import BasinEntry
from chronorun.lifecycle.experts.registry import Registry
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.lifecycle.observe import reader as observation
from chronorun.lifecycle.record.decisions import LifecycleDecision, make_decision

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
    assert seal_of(signals) == seal_of(dict(signals))
    assert seal_of(signals) != seal_of({"share": 0.1234567890123457})


# --- the same arithmetic as in training


def test_deviations_are_derived_as_training_measures_them() -> None:
    assert replay_signals.DEVIATION_ENTRIES == observation.DEVIATION_ENTRIES
    assert replay_signals.LEAST_SPREAD == observation._LEAST_SPREAD
    rng = np.random.default_rng(0)
    record = Registry([1]).live(0)[0]
    for checkpoint in range(30):
        share = float(checkpoint % 7 > 0)
        nothing = np.zeros(0)
        record.basin.append(
            BasinEntry(0, checkpoint, share, 0, nothing, nothing, {}, 1, rng.random())
        )
        assert [weight_deviation(record)] == observation.weight_deviations([record])


def test_replay_modules_import_no_torch_of_their_own() -> None:
    for module in (replay_signals, *map(inspect.getmodule, (Books, OtherHistory, WhatIf))):
        assert module is not None
        names = {
            alias.name
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "torch" not in names


# --- books


def verdict(action: Action, expert_id: str, seq: int = 0, **more: Any) -> Verdict:
    return Verdict(Candidate(action, 0, expert_id, "why", 1, **more), Status.executed, seq=seq)


def carried(books: Books, v: Verdict, step: int, fades: bool = False) -> LifecycleDecision | None:
    decision = make_decision(v, step, "r", books.config, books.registry.slots(0))
    return books.carry_out(v.candidate, decision, fades)


def even(n: int) -> dict[int, list[float]]:
    return {0: [1.0 / n] * n}


def test_a_split_waits_for_the_next_step_and_makes_twins_without_a_ramp() -> None:
    books = Books(1, 2, LifecycleConfig())
    books.open_checkpoint(10, even(2))
    assert carried(books, verdict(Action.SPLIT, "L0_E2", parent_id="L0_E0"), 10) is None
    assert books.due_steps(20) == [10]
    (done,) = books.begin_step(10)
    assert (done.integrated_step, done.experts_after) == (10, ["L0_E0", "L0_E1", "L0_E2"])
    assert books.registry.twins == {"L0_E2": "L0_E0"}
    assert books.ramps == {}


def test_a_spawns_ramp_lasts_for_the_cooling_period() -> None:
    books = Books(1, 2, LifecycleConfig(cooling_period=2))
    books.open_checkpoint(10, even(2))
    carried(books, verdict(Action.SPAWN, "L0_E2"), 10)
    books.begin_step(10)
    for step, ramping in ((20, True), (30, True), (40, False)):
        books.open_checkpoint(step, even(3))
        assert ("L0_E2" in books.ramps) is ramping, step


def test_a_dead_expert_that_fades_out_is_removed_when_its_ramp_ends() -> None:
    books = Books(1, 3, LifecycleConfig(cooling_period=2))
    books.open_checkpoint(10, even(3))
    books.registry.transition("L0_E1", ExpertState.dormant, 10, "no share")
    v = verdict(Action.PRUNE, "L0_E1")
    assert carried(books, v, 10, fades=True) is None
    assert books.fades_until(10) == 30
    assert (books.due_steps(30), books.due_steps(31)) == ([], [30])
    assert "L0_E1" in books.ramps
    (done,) = books.begin_step(30)
    assert (done.step, done.integrated_step) == (10, 30)
    assert books.registry.slots(0) == ["L0_E0", "L0_E2"]
    assert books.ramps == {}


def test_a_rollback_undoes_a_birth_and_brings_a_pruned_one_back() -> None:
    books = Books(1, 3, LifecycleConfig())
    books.open_checkpoint(10, even(3))
    books.registry.transition("L0_E1", ExpertState.dormant, 10, "no share")
    carried(books, verdict(Action.PRUNE, "L0_E1", 0), 10)
    carried(books, verdict(Action.SPAWN, "L0_E3", 1), 10)
    books.begin_step(10)
    assert books.registry.slots(0) == ["L0_E0", "L0_E2", "L0_E3"]
    carried(books, verdict(Action.ROLLBACK, "L0_E3", 2, undoes=1), 20)
    done = carried(books, verdict(Action.ROLLBACK, "L0_E1", 3, undoes=0), 20)
    assert done is not None
    assert done.experts_after == ["L0_E0", "L0_E2", "L0_E1"]
    last = books.registry.take_transitions()[-1]
    assert (last.expert_id, last.reason) == ("L0_E1", "rollback of PRUNE 0")


def test_a_dry_run_changes_no_book() -> None:
    books = Books(1, 2, LifecycleConfig(dry_run=True))
    done = carried(books, verdict(Action.SPLIT, "L0_E2", parent_id="L0_E0"), 10)
    assert done is not None
    assert done.integrated_step is None
    assert books.due_steps() == []


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
