"""The benchmark of edits runs, and what must be exact is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.whole
def test_quick_command_prints_and_writes_every_edit(tmp_path: Path, cache_dir: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "preservation.py"), "--quick", "--json", str(file)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ
        | {
            "PYTHONPATH": str(BENCHMARKS.parent),
            "CHRONORUN_CACHE": str(cache_dir),
            "OMP_NUM_THREADS": "1",
        },
    )
    # A model that is hardly trained may miss a goal; it must not miss those that are exact.
    assert done.returncode in (0, 1), done.stderr
    record = json.loads(file.read_text(encoding="utf-8"))
    assert set(record) == {"machine", "command", "quick"}
    rows = {(row["edit"], row["top_k"]): row for row in record["quick"]["rows"]}
    assert {top_k for _, top_k in rows} == {1, 2}
    for (edit, top_k), row in rows.items():
        assert edit in done.stdout
        assert 1 <= row["cases"] <= 2, f"{edit} at top-{top_k}"
    exact_edits = [("split, zero noise, slow", 1), ("split, zero noise, slow", 2)]
    for edit, top_k in [*exact_edits, ("prune, no token", 2)]:
        exact = rows[edit, top_k]
        assert (exact["output"], exact["token"], exact["must"]) == (0.0, 0.0, 0.0)
        assert exact["holds"]
    # There a gate is an entry of the softmax over all experts, and its sum has lost one of them.
    rounded = rows["prune, no token", 1]
    assert max(rounded["output"], rounded["token"]) <= rounded["must"] == 1e-6
    assert rounded["holds"]
    for top_k in (1, 2):
        assert abs(rows["split, zero noise", top_k]["worst"]) <= 1e-6
    assert all(len(line) <= 80 for line in _table(done.stdout))


def _table(printed: str) -> list[str]:
    return printed.splitlines()[1:]
