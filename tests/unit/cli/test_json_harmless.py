"""What ``--json`` prints is ASCII: no terminal takes any of it for a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chronorun.analysis.replay.derive as replay
import chronorun.training.sampling as sampling
from chronorun.cli.replay import replay_command
from chronorun.cli.sample import sample_command

HOSTILE = "".join(map(chr, [*range(32), 127, *range(128, 160), 0x202E, 0x200B])) + "[red]\ud800"


def test_sample_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampling, "sample_text", lambda *_: HOSTILE)
    sample_command("run", HOSTILE, 1, 0.0, 1, 0, "last", True)
    out = capsys.readouterr().out
    assert out.rstrip("\n").isprintable()
    assert json.loads(out)["continuation"] == HOSTILE


def test_replay_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    found = replay.Replay(HOSTILE)
    found.notes.append(HOSTILE)
    monkeypatch.setattr("chronorun.cli.replay.replay_run", lambda _: found)
    monkeypatch.setattr("chronorun.cli.replay.Run.open", lambda _: None)
    replay_command(str(folder), [], True)
    out = capsys.readouterr().out
    assert out.rstrip("\n").isprintable()
    assert HOSTILE in json.loads(out)["notes"]
