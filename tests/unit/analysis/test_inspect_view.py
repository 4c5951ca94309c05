"""What ``chronorun inspect`` shows of a run: golden outputs, the seed's record, filters, output."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_runs import SEED_RECORD
from unit.analysis.inspect_here import (
    Inspect,
    decision,
    errors,
    inspect,
    small_run,
    write_log,
)

__all__ = ["inspect"]
GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare with a golden file, trailing blanks apart; CHRONORUN_GOLDEN=write renews it."""
    lines = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    path = GOLDEN / name
    if os.environ.get("CHRONORUN_GOLDEN") == "write":
        path.write_text(lines, encoding="utf-8")
    assert lines == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_looks_as_it_did(inspect: Inspect, tmp_path: Path, width: int) -> None:
    small_run(tmp_path / "small")
    shown = inspect("small", width=width)
    assert (shown.code, shown.err) == (0, "")
    assert max(len(line.rstrip()) for line in shown.out.splitlines()) <= width
    check_golden(f"run_{width}.txt", shown.out)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("expert", ["L0_E2", "L0_E0"])
def test_the_story_of_an_expert_looks_as_it_did(
    inspect: Inspect, tmp_path: Path, width: int, expert: str
) -> None:
    small_run(tmp_path / "small")
    shown = inspect("small", "--why", expert, width=width)
    assert (shown.code, shown.err) == (0, "")
    check_golden(f"why_{expert}_{width}.txt", shown.out)


@pytest.mark.parametrize("name", ["lifecycle_decisions.jsonl", "seed.jsonl"])
def test_the_seeds_record_alone_is_enough(inspect: Inspect, tmp_path: Path, name: str) -> None:
    write_log(tmp_path / "here" / name, [SEED_RECORD])
    shown = inspect(f"here/{name}")
    assert (shown.code, shown.err) == (0, "")
    assert "run experiment_42" in shown.out
    assert "L2_E3 -> L2_E9" in shown.out
    assert "starvation_duration 6 (patience 5)" in " ".join(shown.out.split())
    assert "spawned at 15000" in shown.out


def test_the_seeds_record_answers_why(inspect: Inspect, tmp_path: Path) -> None:
    write_log(tmp_path / "lifecycle_decisions.jsonl", [SEED_RECORD])
    shown = inspect("lifecycle_decisions.jsonl", "--why", "L2_E9")
    assert shown.code == 0
    assert "born step 15000 from L2_E3" in shown.out
    assert "no lifecycle_evaluations.jsonl" in " ".join(shown.out.split())


def test_why_it_was_pruned_and_why_another_was_not(inspect: Inspect, tmp_path: Path) -> None:
    small_run(tmp_path / "small")
    pruned = " ".join(inspect("small", "--why", "L0_E2").out.split())
    assert "L0_E2 was pruned at step 240: no token for 9 checkpoints (patience 4)" in pruned
    assert "put off its prune once (grace 2 a dormancy)" in pruned
    refused = "lens attempt, deferral 1 of 2 (1x); warm-up until step 240 (1x)"
    assert f"proposed and refused: {refused}" in pruned
    assert "(1x); it was revived at step 300" in pruned
    split = " ".join(inspect("small", "--why", "L0_E0").out.split())
    assert "L0_E0 was split at step 100: share 0.57 > 0.4 for 5 checkpoints (patience 3)" in split
    assert "; that was rolled back at step 200" in split
    kept = " ".join(inspect("small", "--why", "L0_E3").out.split())
    assert (
        "L0_E3 was not pruned: it got tokens at every checkpoint (lowest share 0.1000 at step "
        "20); its counter stayed at 0 of 4 checkpoints"
    ) in kept
    hog = " ".join(inspect("small", "--why", "L0_E1").out.split())
    assert "L0_E1 was merged at step 220: cosine 0.97 > 0.95" in hog
    assert "its share was at most 0.2000 at step 20, overloaded above 0.4" in hog


def test_a_counter_short_of_its_patience_is_told(inspect: Inspect, tmp_path: Path) -> None:
    folder = small_run(tmp_path / "small")
    (folder / "lifecycle_decisions.jsonl").unlink()
    shown = " ".join(inspect("small", "--why", "L0_E0").out.split())
    assert "its counter got to 2 of 3 checkpoints at step 40, now 2" in shown
    assert "its counter got to 2 of 8 checkpoints at step 40, now 0" in shown


@pytest.mark.parametrize(("expert", "other"), [("L0_E0", "L0_E4"), ("L0_E4", "L0_E0")])
def test_a_release_of_twins_is_told_with_its_receipt(
    inspect: Inspect, tmp_path: Path, expert: str, other: str
) -> None:
    small_run(tmp_path / "small")
    shown = " ".join(inspect("small", "--why", expert).out.split())
    felt = "probe loss +0.012%, output change 0.150"
    assert f"160 twins released, to compete with {other}: {felt}" in shown
    assert "now unknown" in shown or "now active" in shown
    assert "twins released" in inspect("small/expert_transitions.jsonl").out
    found = json.loads(inspect("small", "--why", expert, "--json").out)
    assert errors(found) == []
    assert found["why"]["releases"] == [
        {"step": 160, "expert_id": "L0_E4", "parent_id": "L0_E0", "probe_shock": 0.00012,
         "output_change": 0.15}
    ]  # fmt: skip


def unfinished(folder: Path) -> Path:
    """Let the run of ``small_run`` end before a second split, of the last checkpoint, is made."""
    small_run(folder)
    path = folder / "lifecycle_decisions.jsonl"
    ids = ["L0_E0", "L0_E3", "L0_E2"]
    waiting = [
        decision(
            step=300, integrated_step=None, action="SPLIT", expert_id=child, parent_id=parent,
            reason="overloaded", seq=seq, experts_before=ids, experts_after=ids, receipt={},
            metrics_at_decision={"share": 0.61, "overload_duration": 4},
            config_snapshot={"split_share_threshold": 0.4, "split_patience": 3},
        )
        for seq, child, parent in ((5, "L0_E5", "L0_E0"), (6, "L0_E6", "L0_E3"))
    ]  # fmt: skip
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in waiting)
    evaluations = folder / "lifecycle_evaluations.jsonl"
    *lines, last = map(json.loads, evaluations.read_text(encoding="utf-8").splitlines())
    last["candidates"] = [
        {"action": "SPLIT", "expert_id": d["expert_id"], "parent_id": d["parent_id"],
         "partner_id": None, "reason": "overloaded", "held": 4, "undoes": None,
         "status": "executed", "why": "", "seq": d["seq"]}
        for d in waiting
    ]  # fmt: skip
    write_log(evaluations, [*lines, last])
    return folder


def test_what_a_runs_end_left_undone_is_counted_apart(inspect: Inspect, tmp_path: Path) -> None:
    unfinished(tmp_path / "sweep/small")
    counts = "MERGE 1 PRUNE 1 REVIVE 1 ROLLBACK 1 SPLIT 1 SPLIT 2 (not carried out)"
    shown = inspect("sweep/small").out
    assert f"actions {counts}" in " ".join(shown.split())
    table = shown.partition("actions\nstep")[2].partition("experts per layer")[0]
    assert " ".join(table.split()).count("not carried out: the run ended") == 2
    assert "3 -> 3 experts" not in shown
    assert "E5" not in shown.partition("lineage")[2]
    assert counts in " ".join(inspect("sweep", width=200).out.split())
    for arguments in (("sweep/small",), ("sweep",)):
        found = json.loads(inspect(*arguments, "--json").out)
        assert errors(found) == []
        head = found["headline"] if "headline" in found else found["runs"][0]
        assert head["counts"] == dict.fromkeys(("SPLIT", "ROLLBACK", "MERGE", "PRUNE", "REVIVE"), 1)
        assert (head["unfinished"], head["would"]) == ({"SPLIT": 2}, {})
        assert [a["carried_out"] for a in found["actions"]] == [True] * 5 + [False] * 2
    rows = list(csv.DictReader(inspect("sweep", "--csv").out.splitlines()))
    assert [row["carried_out"] for row in rows] == ["true"] * 5 + ["false"] * 2


def test_a_story_calls_nothing_executed_that_was_not(inspect: Inspect, tmp_path: Path) -> None:
    unfinished(tmp_path / "small")
    shown = " ".join(inspect("small", "--why", "L0_E3", width=120).out.split())
    assert (
        "L0_E3 was to be split (decided at step 300, not carried out: the run ended): "
        "share 0.61 > 0.4 for 4 checkpoints (patience 3)"
    ) in shown
    assert "SPLIT as the parent not carried out: the run ended" in shown
    assert "executed" not in shown
    # What was done before it is the answer.
    assert "L0_E0 was split at step 100" in " ".join(inspect("small", "--why", "L0_E0").out.split())
    answers = json.loads(inspect("small", "--why", "L0_E3", "--json").out)["why"]["answers"]
    assert [answer["happened"] for answer in answers] == [False, False, False]


def test_a_dry_runs_story_says_would(inspect: Inspect, tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "small")
    path = folder / "lifecycle_decisions.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"dry_run": false', '"dry_run": true'), encoding="utf-8")
    shown = " ".join(inspect("small", "--why", "L0_E3").out.split())
    assert "L0_E3 would have been split at step 300" in shown
    assert "SPLIT as the parent would be executed" in shown


@pytest.mark.parametrize(
    ("realised", "told"),
    [
        (-0.0000123, "judged helped: -1e-05 nats (expected 0)"),
        (0.0, "judged no harm: 0 nats (expected 0)"),
        (-0.0, "judged no harm: 0 nats (expected 0)"),
        (-0.01234, "judged helped: -0.0123 nats (expected 0)"),
    ],
)
def test_the_sign_of_a_benefit_makes_sense(
    inspect: Inspect, tmp_path: Path, realised: float, told: str
) -> None:
    write_log(tmp_path / "lifecycle_decisions.jsonl", [decision()])
    judged = {"seq": 0, "action": "PRUNE", "realised_benefit": realised, "harmful": False}
    write_log(tmp_path / "lifecycle_evaluations.jsonl", [{"step": 300, "judgements": [judged]}])
    assert told in " ".join(inspect(".").out.split())


def test_an_unknown_expert_is_refused(inspect: Inspect, tmp_path: Path) -> None:
    small_run(tmp_path / "small")
    shown = inspect("small", "--why", "L7_E1")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == (
        "chronorun: error: inspect: --why L7_E1 is in no log of small, expected one of L0_E0 to "
        "L0_E4; name another\n"
    )


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ([], [100, 200, 220, 240, 300]),
        (["--action", "merge", "--action", "PRUNE"], [220, 240]),
        (["--since", "200", "--until", "240"], [200, 220, 240]),
        (["--expert", "L0_E4"], [100, 200]),
        (["--expert", "L0_E1"], [220]),
        (["--layer", "1"], []),
        (["--layer", "0", "--layer", "1", "--since", "300"], [300]),
    ],
)
def test_filters_choose_what_is_listed(
    inspect: Inspect, tmp_path: Path, flags: list[str], steps: list[int]
) -> None:
    small_run(tmp_path / "small")
    found = json.loads(inspect("small", "--json", *flags).out)
    assert [action["step"] for action in found["actions"]] == steps
    assert found["headline"]["listed"] == len(steps)
    rows = list(csv.DictReader(inspect("small", "--csv", *flags).out.splitlines()))
    assert [int(row["step"]) for row in rows] == steps
    assert inspect("small", *flags).code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--action", "prun"],
            "inspect: --action prun, expected one of spawn, prune, split, merge, revive, rollback; "
            "name one of them",
        ),
        (
            ["--since", "9", "--until", "1"],
            "inspect: --since 9 lies beyond --until 1, expected since <= until; swap the two",
        ),
        (
            ["--json", "--csv"],
            "inspect: --json and --csv, expected one of the two; leave one out",
        ),
        (
            ["--follow", "--why", "L0_E1"],
            "inspect: --follow and --why, expected one of the two; leave one out",
        ),
    ],
)
def test_a_senseless_question_is_refused(
    inspect: Inspect, tmp_path: Path, flags: list[str], message: str
) -> None:
    small_run(tmp_path / "small")
    shown = inspect("small", *flags)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == f"chronorun: error: {message}\n"


@pytest.mark.parametrize("arguments", [["small"], ["small", "--why", "L0_E2"], ["."]])
def test_json_keeps_to_the_schema(inspect: Inspect, tmp_path: Path, arguments: list[str]) -> None:
    small_run(tmp_path / "small")
    found = json.loads(inspect(*arguments, "--json").out)
    assert errors(found) == []
    assert len(found["actions"]) == 5


def test_the_receipt_of_a_judged_edit_is_told(inspect: Inspect, tmp_path: Path) -> None:
    small_run(tmp_path / "small")
    split = json.loads(inspect("small", "--json").out)["actions"][0]
    assert (split["realised_benefit"], split["harmful"]) == (0.0812, True)
    assert "judged harmful: +0.0812 nats" in " ".join(inspect("small").out.split())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--layer", "9"), "there is no layer 9, only 0"),
        (("--expert", "L0_E9"), "there is no expert L0_E9, only L0_E0 to L0_E4"),
        (("--layer", "0", "--since", "999"), "no action passes the filters experts per layer"),
    ],
)
def test_a_filter_on_what_is_not_there_is_told(
    inspect: Inspect, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    small_run(tmp_path / "small")
    assert told in " ".join(inspect("small", *flags).out.split())


def test_a_dry_run_says_would(inspect: Inspect, tmp_path: Path) -> None:
    write_log(tmp_path / "lifecycle_decisions.jsonl", [decision(dry_run=True)])
    shown = inspect(".")
    assert "would PRUNE 1" in shown.out
    assert "lineage" not in shown.out
    found = json.loads(inspect(".", "--json").out)
    assert (found["headline"]["counts"], found["headline"]["would"]) == ({}, {"PRUNE": 1})


def test_a_long_timeline_keeps_its_ends(inspect: Inspect, tmp_path: Path) -> None:
    records = [decision(step=i, integrated_step=i, seq=i) for i in range(1000)]
    write_log(tmp_path / "lifecycle_decisions.jsonl", records)
    shown = inspect(".").out
    assert "... 960 more" in shown
    assert "\n   0  PRUNE" in shown
    assert "\n 999  PRUNE" in shown


def test_a_sweep_has_a_row_per_run_and_links_are_none(inspect: Inspect, tmp_path: Path) -> None:
    for name in ("sweep/9-seed=1", "sweep/10-seed=2"):
        small_run(tmp_path / name)
    (tmp_path / "sweep/run").symlink_to("9-seed=1")
    shown = inspect("sweep")
    assert shown.code == 0
    assert "2 runs in sweep" in shown.out
    assert shown.out.index("9-seed=1") < shown.out.index("10-seed=2")
    rows = list(csv.DictReader(inspect("sweep", "--csv").out.splitlines()))
    assert [row["run"] for row in rows] == ["9-seed=1"] * 5 + ["10-seed=2"] * 5
    assert inspect("sweep", "--why", "L0_E1").code == 2


def test_a_folder_without_runs_is_refused(inspect: Inspect, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shown = inspect("empty")
    assert shown.code == 2
    assert shown.err == (
        "chronorun: error: inspect: empty holds no run, expected a folder with metrics.jsonl or "
        "lifecycle_decisions.jsonl, or with such folders; name one such as outputs/run\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_gets_other_signs(tmp_path: Path, encoding: str) -> None:
    small_run(tmp_path / "small")
    done = subprocess.run(
        [sys.executable, "-m", "chronorun", "inspect", "small"],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"`- L0_E4  split off at 100" in done.stdout


@pytest.mark.parametrize("flags", [[], ["--json"], ["--why", "L0_E2"]])
def test_torch_is_never_imported(tmp_path: Path, flags: list[str]) -> None:
    small_run(tmp_path / "small")
    heavy = "{'torch', 'datasets', 'wandb', 'tokenizers', 'scipy', 'matplotlib', 'hydra'}"
    code = (
        "import sys; from chronorun.cli.main import run_command_line; "
        f"code = run_command_line({['inspect', 'small', *flags]!r}); "
        f"sys.exit(code or str(sorted({heavy} & set(sys.modules)) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert done.stderr.strip() == ""
    assert done.stdout


def test_the_pictures_are_written_by_their_own_rooms(
    inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    written = []
    for name, function in (("report.plots", "write_plot"), ("report.page", "write_report")):
        room = types.ModuleType(name)
        setattr(room, function, lambda run, path: written.append((run.folder, path)))
        monkeypatch.setitem(sys.modules, f"chronorun.analysis.{name}", room)
    small_run(tmp_path / "small")
    shown = inspect("small/lifecycle_decisions.jsonl", "--plot", "a.svg", "--html", "b.html")
    assert (shown.code, shown.out) == (0, "wrote a.svg\nwrote b.html\n")
    assert written == [(Path("small"), Path("a.svg")), (Path("small"), Path("b.html"))]
