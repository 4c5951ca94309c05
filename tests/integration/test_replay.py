"""Every decision of real runs is derived again; whatever is changed in a log is found."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Chronorun, RunOf
from integration.runs import BASE, RUNS

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay.derive import replay_run
from chronorun.analysis.replay.result import Replay
from chronorun.analysis.replay.whatif import WhatIf, what_if
from chronorun.errors import UserError

MakeRun = Callable[[str], Path]


@pytest.fixture(scope="session")
def run_of(run_of: RunOf) -> MakeRun:
    """Return the folder of a run by its name; it is trained when it is first asked for."""
    return lambda name: run_of(name, *RUNS[name])


@pytest.fixture
def train(chronorun: Chronorun) -> Callable[..., None]:
    def run(*overrides: str) -> None:
        done = chronorun("train", *overrides)
        assert done.returncode == 0, done.stderr

    return run


def replay(folder: Path) -> Replay:
    return replay_run(Run.open(folder))


def asked(folder: Path, *overrides: str) -> WhatIf:
    return what_if(Run.open(folder), overrides)


def lines_of(folder: Path, log: str) -> list[dict[str, Any]]:
    text = (folder / f"{log}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def actions(folder: Path) -> set[str]:
    return {d["action"] for d in lines_of(folder, "lifecycle_decisions")}


# --- everything is derived again


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("aggressive", {"SPLIT", "SPAWN"}),
        pytest.param("over", {"PRUNE", "SPLIT"}, marks=pytest.mark.whole),
        pytest.param("dry", {"SPLIT"}, marks=pytest.mark.whole),
        ("undone", {"PRUNE", "ROLLBACK"}),
        pytest.param("merged", {"MERGE"}, marks=pytest.mark.whole),
        pytest.param("planted", {"SPAWN"}, marks=pytest.mark.whole),
        pytest.param("at_once", {"SPLIT"}, marks=pytest.mark.whole),
    ],
)
def test_every_decision_of_a_run_is_reproduced(run_of: MakeRun, name: str, made: set[str]) -> None:
    folder = run_of(name)
    found = replay(folder)
    assert found.difference is None
    assert found.is_reproduced
    assert made <= actions(folder)
    for kind, log in (
        (found.lifecycle, "lifecycle_decisions"),
        (found.control, "control_decisions"),
    ):
        assert kind.reproduced == kind.logged == len(lines_of(folder, log)) > 0
    assert found.checkpoints == len(lines_of(folder, "snapshots"))


def test_a_run_without_lifecycle_replays_control_only(run_of: MakeRun) -> None:
    found = replay(run_of("off"))
    assert found.is_reproduced
    assert (found.lifecycle.logged, found.control.logged) == (0, 24)


@pytest.mark.whole
def test_a_run_that_nobody_governs_replays_its_lifecycle(run_of: MakeRun) -> None:
    found = replay(run_of("ungoverned"))
    assert found.is_reproduced
    assert found.lifecycle.logged > 0
    assert found.control.logged == 0


def test_a_run_that_was_resumed_and_lengthened_is_reproduced(
    run_of: MakeRun, tmp_path: Path, train: Callable[..., None]
) -> None:
    folder = tmp_path / "outputs" / "ungoverned"
    shutil.copytree(run_of("ungoverned"), folder)
    train("resume=outputs/ungoverned", "training.max_steps=125")
    found = replay(folder)
    assert found.is_reproduced
    assert found.checkpoints == len(lines_of(folder, "snapshots"))


def test_priors_come_from_the_runs_own_checkpoint_or_are_missed(
    run_of: MakeRun, tmp_path: Path, train: Callable[..., None]
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(run_of("over"), teacher)
    options = (*BASE, "lifecycle=off", "training.max_steps=40", "governance.priors_from=teacher")
    train(*options, "run_id=pupil")
    shutil.rmtree(teacher)
    pupil = tmp_path / "outputs" / "pupil"
    assert replay(pupil).is_reproduced
    shutil.rmtree(pupil / "checkpoints")
    found = replay(pupil)
    assert not found.is_reproduced
    assert found.control.why_not == "the priors that the run started from are gone (teacher)"


# --- whatever is changed is found


@pytest.fixture
def copy_of(run_of: MakeRun, tmp_path: Path) -> MakeRun:
    """Copy a run's files, to be tampered with."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in run_of(name).iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        return folder

    return copy


def flipped(value: float, rng: random.Random) -> float:
    """Change the second digit after the leading one, or the only digit."""
    text = repr(value)
    places = [i for i, char in enumerate(text.partition("e")[0]) if char.isdigit()]
    places = [i for i in places if text[i] != "0"][:2] or places[-1:]
    place = places[-1]
    digit = str((int(text[place]) + rng.randrange(1, 9)) % 10)
    return json.loads(text[:place] + digit + text[place + 1 :])


def tamper(folder: Path, log: str, number: int, *keys: str | int) -> None:
    """Flip a digit of one field of line ``number`` (from 1)."""
    path = folder / f"{log}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    record = part = json.loads(lines[number - 1])
    for key in keys[:-1]:
        part = part[key]
    old = part[keys[-1]]
    part[keys[-1]] = flipped(old, random.Random(0))
    assert part[keys[-1]] != old
    lines[number - 1] = json.dumps(record, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


READ_BY_POLICIES: list[tuple[str, int, tuple[str | int, ...]]] = [
    ("snapshots", 7, ("step",)),
    ("snapshots", 7, ("layers", 1, "n_effective")),
    ("snapshots", 7, ("layers", 0, "top2_share")),
    ("snapshots", 7, ("layers", 0, "dead_expert_count")),
    ("snapshots", 7, ("layers", 0, "utilization_shares", 3)),
    ("snapshots", 7, ("layers", 0, "token_entropy_nats")),
    ("control_decisions", 9, ("observed", "n_effective")),
    ("control_decisions", 9, ("computed", "pressure")),
    ("control_decisions", 9, ("actuator", "lens_scale")),
    ("lifecycle_evaluations", 9, ("signals", "step")),
    ("lifecycle_evaluations", 9, ("signals", "dispatched")),
    ("lifecycle_evaluations", 9, ("signals", "token_entropy_ratio")),
    ("lifecycle_evaluations", 9, ("signals", "unresolved_debt")),
    ("lifecycle_evaluations", 9, ("signals", "experts", 2, "share")),
    ("lifecycle_evaluations", 9, ("signals", "experts", 2, "born_step")),
    ("lifecycle_evaluations", 9, ("signals", "experts", 2, "overflow")),
    ("lifecycle_evaluations", 9, ("signals", "experts", 1, "token_harm")),
    ("lifecycle_evaluations", 9, ("signals", "pairs", 4, "cosine")),
    ("lifecycle_evaluations", 9, ("signals", "pairs", 4, "overlap")),
    ("lifecycle_evaluations", 30, ("counters", "starvation")),
    ("lifecycle_decisions", 2, ("seq",)),
    ("lifecycle_decisions", 2, ("step",)),
    ("lifecycle_decisions", 2, ("integrated_step",)),
    ("lifecycle_decisions", 2, ("metrics_at_decision", "share")),
    ("lifecycle_decisions", 2, ("config_snapshot", "split_share_ratio")),
    ("expert_transitions", 20, ("step",)),
    ("basins", 40, ("share",)),
    ("basins", 40, ("weight_delta",)),
    ("basins", 40, ("token_type_dist", 0)),
]


@pytest.mark.parametrize(
    ("log", "number", "keys"),
    READ_BY_POLICIES,
    ids=[f"{log}:{'.'.join(map(str, keys))}" for log, _, keys in READ_BY_POLICIES],
)
def test_a_flipped_digit_is_named_by_file_and_line(
    copy_of: MakeRun, log: str, number: int, keys: tuple[str | int, ...]
) -> None:
    folder = copy_of("aggressive")
    if keys[0] == "token_type_dist":
        dist = lines_of(folder, log)[number - 1]["token_type_dist"]
        keys = (keys[0], dist.index(max(dist)))
    tamper(folder, log, number, *keys)
    found = replay(folder)
    assert found.difference is not None
    assert (found.difference.file, found.difference.line) == (f"{log}.jsonl", number)
    assert found.changed_logs == [f"{log}.jsonl"]
    assert found.difference.logged != found.difference.derived


@pytest.mark.parametrize("seal", [True, False])
def test_signals_without_a_seal_are_held_against_the_other_logs(
    copy_of: MakeRun, seal: bool
) -> None:
    folder = copy_of("over")
    path = folder / "lifecycle_evaluations.jsonl"
    records = lines_of(folder, "lifecycle_evaluations")
    if not seal:
        for record in records:
            del record["signals_crc32"]
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        found = replay(folder)
        assert found.difference is None
        assert found.changed_logs == [path.name]
    tamper(folder, "lifecycle_evaluations", 12, "signals", "experts", 1, "weight_delta")
    difference = replay(folder).difference
    assert difference is not None
    assert (difference.file, difference.line) == (path.name, 12)
    assert difference.field == ("signals_crc32" if seal else "signals.experts[1].weight_delta")


@pytest.mark.parametrize(
    ("log", "keys"),
    [
        ("metrics", ("train/loss",)),
        ("routing_events", ("loss",)),
        ("lifecycle_decisions", ("receipt", "output_change")),
        ("control_decisions", ("actuator", "lens_u_norm")),
    ],
)
def test_any_other_change_is_named_by_file(
    copy_of: MakeRun, log: str, keys: tuple[str, ...]
) -> None:
    folder = copy_of("aggressive")
    tamper(folder, log, 1, *keys)
    found = replay(folder)
    assert found.difference is None
    assert found.changed_logs == [f"{log}.jsonl"]
    assert not found.is_reproduced


@pytest.mark.parametrize("log", ["lifecycle_decisions", "expert_transitions", "basins"])
def test_a_line_that_is_gone_or_twice_is_found(copy_of: MakeRun, log: str) -> None:
    folder = copy_of("aggressive")
    path = folder / f"{log}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for changed in (lines[:-1], [*lines, lines[-1]], lines[1:], []):
        path.write_text("".join(changed), encoding="utf-8")
        found = replay(folder)
        assert found.difference is not None
        assert found.difference.file == path.name
    path.unlink()
    assert replay(folder).changed_logs == [path.name]


def test_a_changed_configuration_is_named_by_field(copy_of: MakeRun) -> None:
    folder = copy_of("aggressive")
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  spawn_patience: 3", "  spawn_patience: 2"), encoding="utf-8")
    difference = replay(folder).difference
    assert difference is not None
    assert (difference.file, difference.field) == ("config.yaml", "lifecycle.spawn_patience")
    assert path.read_text(encoding="utf-8").splitlines()[difference.line - 1].strip() == (
        "spawn_patience: 2"
    )
    (folder / "run_manifest.json").unlink()
    difference = replay(folder).difference
    assert difference is not None
    assert difference.file == "lifecycle_evaluations.jsonl"


def test_a_run_that_is_still_being_written_is_replayed_as_far_as_it_goes(
    copy_of: MakeRun,
) -> None:
    folder = copy_of("aggressive")
    (folder / "summary.json").unlink()
    path = folder / "lifecycle_evaluations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:100], encoding="utf-8")
    found = replay(folder)
    assert found.is_reproduced
    assert found.is_open
    assert found.checkpoints == 21
    assert any("is torn and was skipped" in note for note in found.notes)


# --- what would have been


def test_the_runs_own_values_change_nothing(run_of: MakeRun) -> None:
    found = asked(run_of("over"), "lifecycle.prune_patience=4")
    assert (found.changed, found.exact_until, found.changes()) == ({}, None, [])


def test_less_patience_prunes_earlier_and_the_first_answer_is_exact(run_of: MakeRun) -> None:
    folder = run_of("over")
    found = asked(folder, "lifecycle.prune_patience=3")
    assert found.changed == {"lifecycle.prune_patience": ("4", "3")}
    first = found.changes()[0]
    assert first.kind == "earlier"
    assert first.made.action == "PRUNE"
    assert found.exact_until == first.would_be_step
    assert found.is_exact(first)
    later = [c for c in found.changes() if c.first_step > first.first_step]
    assert later
    assert not any(map(found.is_exact, later))
    assert asked(folder, "lifecycle.prune_patience=6").changes()[0].kind == "later"


def test_an_exact_answer_is_what_such_a_run_really_decides(
    run_of: MakeRun, tmp_path: Path, train: Callable[..., None]
) -> None:
    """Until the first structural difference, and there, prediction and run agree."""
    found = asked(run_of("over"), "lifecycle.prune_patience=3")
    train(
        *RUNS["over"], "lifecycle.prune_patience=3", "run_id=real",
        f"training.max_steps={found.exact_until}",
    )  # fmt: skip
    real = [
        (d["action"], d["expert_id"], d["step"])
        for d in lines_of(tmp_path / "outputs" / "real", "lifecycle_decisions")
    ]
    assert real == [
        (m.action, m.expert_id, m.step)
        for m in found.derived
        if found.exact_until is not None and m.step <= found.exact_until
    ]
    assert real


def test_a_dry_runs_answers_are_exact_throughout(run_of: MakeRun) -> None:
    found = asked(run_of("dry"), "lifecycle/split=off")
    assert found.exact_until is None
    assert {c.kind for c in found.changes()} == {"fewer"}
    assert {c.made.action for c in found.changes()} == {"SPLIT"}


def test_another_controller_steers_otherwise_and_ends_exactness(run_of: MakeRun) -> None:
    found = asked(run_of("over"), "governance.pressure_ema_alpha=0.5")
    assert found.control_differs > 0
    assert found.exact_until == found.control_differs_from
    assert found.why == "the lens would have steered otherwise"


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("over", "lifecycle.prune_pat=4",
         "command line: lifecycle.prune_pat=4, expected a known key or group; "
         "did you mean lifecycle.prune_patience?"),
        ("over", "lifecycle.prune_patience=0",
         "configuration: lifecycle.prune_patience=0, expected >= 1; "
         "correct the override or the config file"),
        ("over", "training.max_steps=4",
         "replay: training.max_steps=4, expected lifecycle.* or governance.* (or one of their "
         "groups): anything else makes another run; train that one"),
        ("over", "lifecycle.dry_run=true",
         "replay: lifecycle.dry_run=true, expected a field that decisions are derived from; "
         "train a run to see what it does"),
        ("off", "lifecycle.prune_patience=2",
         "replay: lifecycle was off in this run, expected one that logged what it decides by; "
         "train a run with lifecycle=default to see what it does"),
    ],
)  # fmt: skip
def test_wrong_overrides_are_refused_in_one_line(
    run_of: MakeRun, name: str, override: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        asked(run_of(name), override)
    assert str(caught.value) == message


# --- the command


def test_the_command_says_n_of_n_and_exits_0(run_of: MakeRun, chronorun: Chronorun) -> None:
    done = chronorun("replay", str(run_of("over")))
    assert (done.returncode, done.stderr) == (0, "")
    n = len(lines_of(run_of("over"), "lifecycle_decisions"))
    assert f"lifecycle: {n} of {n} reproduced, with " in done.stdout
    assert "control: 40 of 40 reproduced\n" in done.stdout


def test_the_command_shows_both_sides_of_a_difference_and_exits_1(
    copy_of: MakeRun, chronorun: Chronorun
) -> None:
    folder = copy_of("over")
    path = folder / "lifecycle_decisions.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"reason":"dormant"', '"reason":"d\\u001b[31m"', 1), "utf-8")
    done = chronorun("replay", str(folder))
    assert (done.returncode, done.stderr) == (1, "")
    first = json.loads(text.splitlines()[0])
    assert (
        f"first difference: lifecycle_decisions.jsonl line 1, reason, step {first['step']}, "
        f"layer {first['layer_id']}\n"
        f"  logged   d\\x1b[31m\n"
        f"  derived  dormant\n"
        f"lifecycle_decisions.jsonl is not what summary.json says of it (sha256)\n"
    ) in done.stdout


def test_json_has_documented_keys(run_of: MakeRun, chronorun: Chronorun) -> None:
    done = chronorun("replay", str(run_of("over")), "lifecycle.prune_patience=3", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert list(record) == [
        "schema_version", "run", "run_id", "reproduced", "checkpoints", "lifecycle", "control",
        "waiting", "being_written", "difference", "changed_logs", "notes", "what_if",
    ]  # fmt: skip
    assert list(record["what_if"]) == [
        "changed", "exact_until", "why", "logged", "derived", "changes", "control"
    ]  # fmt: skip
    assert list(record["what_if"]["changes"][0]) == [
        "kind", "action", "layer_id", "expert_id", "parent_id", "partner_id", "step",
        "would_be_step", "exact",
    ]  # fmt: skip


def test_the_command_tells_what_is_exact_and_what_is_projected(
    run_of: MakeRun, chronorun: Chronorun
) -> None:
    done = chronorun("replay", str(run_of("over")), "lifecycle.prune_patience=3")
    assert done.returncode == 0, done.stderr
    assert "with lifecycle.prune_patience=3 (was 4):\nexact until step " in done.stdout
    assert " (here other edits would have been made), a projection after it\n" in done.stdout
    assert " (projected)\n" in done.stdout


def test_what_is_no_run_is_refused(chronorun: Chronorun, tmp_path: Path) -> None:
    done = chronorun("replay", "outputs/nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("chronorun: error: run: outputs/nothing holds no log of a run")
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    done = chronorun("replay", ".")
    assert done.returncode == 2
    assert done.stderr == (
        "chronorun: error: replay: . is not a run folder (no config.yaml); name one, such as "
        "outputs/run\n"
    )


def test_replay_imports_no_torch(run_of: MakeRun) -> None:
    code = (
        "import sys; from chronorun.cli.replay import replay_command; "
        f"code = replay_command({str(run_of('over'))!r}, ['lifecycle.prune_patience=3'], False); "
        "print(code, sorted({'torch', 'datasets', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
