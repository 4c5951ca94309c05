"""What a sweep's folder holds is read in one order, whatever order its file system has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chronorun.bench.evidence.results import JobResult, write_result
from chronorun.bench.run.outcome import collect
from chronorun.bench.run.plan import Sweep


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_records_of_a_job_the_same_counts_in_any_order_of_the_files(
    backwards: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        result = JobResult(0, name, "static", "none", "", 0, "completed")
        (tmp_path / name).mkdir()
        write_result(result, tmp_path / name)
    files = sorted(tmp_path.glob("*/job.json"), reverse=backwards)

    def listed(folder: Path, pattern: str) -> Iterator[Path]:
        assert (folder, pattern) == (tmp_path, "*/job.json")
        return iter(files)

    monkeypatch.setattr(Path, "glob", listed)
    [found] = collect(tmp_path, Sweep([], ["none"], {}, ["0"], ["static"], False))
    assert found.folder == "b"
