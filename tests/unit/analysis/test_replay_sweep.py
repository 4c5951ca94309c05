"""A folder of runs is replayed as a whole: one that fails is told and stops no other."""

from __future__ import annotations

from pathlib import Path

import pytest

import chronorun.analysis.replay.sweep as room
from chronorun.analysis.replay.config import PlannedRunError
from chronorun.analysis.replay.result import Replay, Tally
from chronorun.cli.replay import replay_command
from chronorun.errors import UserError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out three runs; the second cannot be replayed, the third is not what it was."""
    for name in ("0-good", "1-bare", "2-bad"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "metrics.jsonl").write_text("", encoding="utf-8")

    def replay(run: room.Run) -> Replay:
        if run.folder.name == "1-bare":
            raise UserError("replay: config.yaml is missing")
        good = run.folder.name == "0-good"
        return Replay(run.folder.name, Tally(3, 3), Tally(5, 5 if good else 4))

    monkeypatch.setattr(room, "replay_run", replay)
    return tmp_path / "sweep"


def test_a_folder_of_runs_is_counted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay_command(str(runs), [], False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{runs}/1-bare: not replayed: replay: config.yaml is missing"
    assert f"{runs}/2-bad: 0 checkpoints replayed" in lines
    assert not any("0-good" in line for line in lines)
    assert lines[-1] == "replay: 1 of 3 runs, 15 of 16 decisions reproduced"


def test_a_folder_of_good_runs_is_reproduced(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1-bare", "2-bad"):
        (runs / name / "metrics.jsonl").unlink()
    assert replay_command(str(runs), [], False) == 0
    assert capsys.readouterr().out == "replay: 1 of 1 runs, 8 of 8 decisions reproduced\n"


def test_a_question_is_asked_of_one_run(runs: Path) -> None:
    with pytest.raises(UserError) as caught:
        replay_command(str(runs), ["lifecycle.prune_patience=3"], False)
    assert str(caught.value) == (
        f"replay: lifecycle.prune_patience=3 of the 3 runs in {runs}, expected the folder of one "
        f"run with it; name one such as {runs}/0-good"
    )


def test_runs_that_followed_a_plan_are_counted_apart(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def replay(run: room.Run) -> Replay:
        if run.folder.name != "0-good":
            raise PlannedRunError("replay: config.yaml says edits.kind=yoked")
        return Replay(run.folder.name, Tally(3, 3), Tally(5, 5))

    monkeypatch.setattr(room, "replay_run", replay)
    assert replay_command(str(runs), [], False) == 0
    told = capsys.readouterr().out
    assert told == "replay: 1 of 1 runs, 8 of 8 decisions reproduced; 2 more followed a plan\n"
