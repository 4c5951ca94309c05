"""results.csv: every figure reads back, and no text becomes a formula."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.report.results_csv import FIXED, to_csv, write_csv

JOB = JobResult(1, "1-arm=static", "static", "none", "", 7, "completed")
AWKWARD = {"val_loss": 0.1 + 0.2, "a": 1e-300, "b": -0.0, "c": None, "d": 123456789.123456789}


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_every_figure_reads_back_exactly(tmp_path: Path) -> None:
    write_csv([replace(JOB, metrics=AWKWARD, wall={"seconds": 1 / 3})], tmp_path / "results.csv")
    (row,) = rows((tmp_path / "results.csv").read_text(encoding="utf-8"))
    for name, value in AWKWARD.items():
        assert row[name] == ("" if value is None else repr(value))
        assert value is None or repr(float(row[name])) == repr(value)
    assert float(row["wall/seconds"]) == 1 / 3


def test_columns_are_what_a_job_is_then_metrics_then_the_wall_clock() -> None:
    first = replace(JOB, metrics={"edits": 1.0, "val_loss": 2.0}, wall={"seconds": 1.0})
    second = replace(JOB, number=2, metrics={"auc": 3.0}, wall={"bytes": 2.0})
    head = to_csv([first, second]).splitlines()[0].split(",")
    assert head == [*FIXED, "val_loss", "auc", "edits", "wall/bytes", "wall/seconds"]


def test_rows_stand_in_the_order_of_the_jobs() -> None:
    jobs = [replace(JOB, number=number) for number in (10, 2, 1)]
    assert [row["number"] for row in rows(to_csv(jobs))] == ["1", "2", "10"]
    assert to_csv(jobs) == to_csv(jobs[::-1])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@cmd", "  =1", "\t=1"])
def test_text_that_looks_like_a_formula_is_quoted(text: str) -> None:
    job = replace(JOB, variant=text, reason=text, metrics={"edits": -1.0})
    (row,) = rows(to_csv([job]))
    assert row["variant"].startswith("'")
    assert row["reason"].startswith("'")
    assert row["edits"] == "-1.0"


def test_breaks_and_control_characters_stay_in_their_field() -> None:
    job = replace(JOB, reason='a,"b"\r\nc\x1b[31m\u2028\u202e', metrics={"=x": 1.0})
    text = to_csv([job])
    assert len(text.splitlines()) == 2
    (row,) = rows(text)
    assert row["reason"] == 'a,"b"\\r\\nc\\x1b[31m\\u2028\\u202e'
    assert row["'=x"] == "1.0"


def test_without_jobs_there_is_a_head() -> None:
    assert to_csv([]) == ",".join(FIXED) + "\n"


def test_a_failure_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_csv([JOB], path)
    old = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        write_csv([], tmp_path / "absent" / "results.csv")
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]
