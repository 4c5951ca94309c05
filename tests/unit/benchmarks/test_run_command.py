"""``benchmarks/run.py`` prints and writes every row of the groups that it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import run
import torch
from performance import GROUPS, load_group
from performance.rows import Row, summary_row

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.parametrize("name", GROUPS)
def test_every_group_can_be_loaded(name: str) -> None:
    assert callable(load_group(name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says 'not measured' without a GPU only")
def test_without_a_gpu_its_rows_say_that_they_were_not_measured() -> None:
    rows = load_group("gpu")(True)
    assert {row.status for row in rows} == {"not measured: no CUDA device"}
    assert {row.value for row in rows} == {None}


@pytest.mark.whole
def test_quick_command_prints_and_writes_its_rows(tmp_path: Path, cache_dir: Path) -> None:
    out = tmp_path / "results" / "performance"
    groups = ["edits", "evaluation", "gpu"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "--quick", "--rows", *groups, "--out", out],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "CHRONORUN_CACHE": str(cache_dir)},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert list(record["groups"]) == groups
    assert {"cpu", "torch", "python"} <= record["machine"].keys()
    about = {"date", "command", "quick", "seconds", "tries", "load_before", "load_after"}
    assert all(group.keys() == about for group in record["groups"].values())
    names = [row["name"] for row in record["rows"]]
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"\n| {name} |" in page and f"\n  {name} " in done.stdout for name in names)
    kinds = [name.split(" / ")[0] for name in names if name.endswith("nano, 8 experts")]
    edits = ["split", "spawn", "prune", "revive", "merge", "rollback"]
    assert kinds == [*edits, "edit and DDP built anew"]
    assert "64 layers of 8 experts" in names


def test_only_refused_rows_are_taken_from_a_later_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(name: str, seconds: list[float]) -> Row:
        return summary_row("g", name, seconds, seconds, unit="s")

    quiet, noisy = [1.0, 1.0], [1.0, 9.0]
    tries = iter([(quiet, noisy), ([2.0, 2.0], noisy), ([3.0, 3.0], [4.0, 4.0])])

    def measure(quick: bool) -> list[Row]:
        first, second = next(tries)
        return [row("first", first), row("second", second)]

    monkeypatch.setattr(run, "load_group", lambda name: measure)
    rows, about = run.measure_group("g", quick=False)
    assert [(x.name, x.value) for x in rows] == [("first", 1.0), ("second", 4.0)]
    assert about["tries"] == 3
