"""What ``replay``, ``sample`` and ``bench`` print of files is no command for a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from unit.analysis.test_inspect_hostile import CONTROLS, MARKUP, harmed
from unit.bench.bench_sweep import sweep

import chronorun.cli.replay as command
import chronorun.training.sampling as sampling
from chronorun.analysis.replay.lines import Difference
from chronorun.analysis.replay.result import Replay, Tally
from chronorun.analysis.replay.sweep import OneReplay, SweepReplay
from chronorun.analysis.replay.whatif import Made, WhatIf
from chronorun.bench.evidence.verdicts import CellVerdict
from chronorun.bench.report.screen import render_table
from chronorun.cli.sample import sample_command
from chronorun.core.screen import Screen

TEXTS = [*(CONTROLS[i : i + 40] for i in range(0, len(CONTROLS), 40)), *MARKUP]


def found_with(text: str, same: bool) -> Replay:
    difference = Difference(text, 3, text, 20, 0, text, {text: [text]})
    return Replay(
        text,
        lifecycle=Tally(0, 0, None if same else text),
        waiting=[text],
        difference=None if same else difference,
        changed_logs=[] if same else [text],
        notes=[text],
    )


def shown_in(text: str, out: str) -> None:
    assert harmed(out) == []
    if text.isprintable():
        assert text in out


@pytest.mark.parametrize("text", TEXTS)
def test_replay(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "replay_run", lambda _: found_with(text, same=False))
    monkeypatch.setattr(command.Run, "open", lambda _: None)
    assert command.replay_command(text.replace("\x00", "") or "x", [], False) == 1
    shown_in(text, capsys.readouterr().out)


@pytest.mark.parametrize("text", TEXTS)
def test_what_if(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = [Made(text, 0, text, text, text, text, step) for step in (20, 40, 60)]
    other = WhatIf({text: (text, text)}, 20, text, made[:1], made[1:], 1, 1, 20)
    monkeypatch.setattr(command, "replay_run", lambda _: found_with(text, same=True))
    monkeypatch.setattr(command, "what_if", lambda *_: other)
    monkeypatch.setattr(command.Run, "open", lambda _: None)
    assert command.replay_command("run", ["a=b"], False) == 0
    shown_in(text, capsys.readouterr().out)


@pytest.mark.parametrize("text", TEXTS)
def test_replay_of_a_folder_of_runs(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = [OneReplay(text, found_with(text, same=False)), OneReplay(text, None, text)]
    monkeypatch.setattr(command, "run_folders", lambda _: [tmp_path])
    monkeypatch.setattr(command, "replay_sweep", lambda *_: SweepReplay(text, runs))
    assert command.replay_command(str(tmp_path), [], False) == 1
    shown_in(text, capsys.readouterr().out)


@pytest.mark.parametrize("text", TEXTS)
def test_sample(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampling, "sample_text", lambda *_: text)
    sample_command("run", text, 1, 0.0, 1, 0, "last", False)
    out = capsys.readouterr().out
    shown_in(text, out.replace("\t", ""))


@pytest.mark.parametrize("text", TEXTS)
def test_bench(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = sweep()
    for job in results[:3]:
        for name in ("scenario", "variant", "arm", "folder", "reason"):
            object.__setattr__(job, name, text)
        object.__setattr__(job, "status", "failed")
    verdict = CellVerdict(text, text, "INCONCLUSIVE", text, 0, [])
    screen = Screen(file=sys.stdout, width=200, highlight=False, markup=False, emoji=False)
    screen.print(render_table([verdict], results, 200), crop=False)
    shown_in(text, capsys.readouterr().out)
