"""The record of a bench job: written, read back, refused when it is not one."""

from __future__ import annotations

import pytest

from chronorun.bench.evidence.results import (
    FILE,
    JobResult,
    cells,
    paired,
    read_result,
    write_result,
)
from chronorun.errors import StorageError


def job(number=0, arm="static", scenario="none", variant="", seed=0, status="completed", **metrics):
    return JobResult(
        number, f"{number}-{arm}", arm, scenario, variant, seed, status, metrics=metrics
    )


@pytest.mark.parametrize("status", ["completed", "no_edit", "failed", "skipped", "missing"])
def test_a_record_reads_back_as_it_was_written(tmp_path, status):
    result = JobResult(
        number=3,
        folder="3-arm=yoked,seed=1",
        arm="yoked",
        scenario="too_few",
        variant="lifecycle=aggressive",
        seed=1,
        status=status,
        reason="ein „Grund“\nin two lines",
        metrics={"val_loss": 0.1 + 0.2, "recovery_steps": None},
        wall={"seconds": 1.5e-300, "peak_memory_bytes": None},
    )
    write_result(result, tmp_path)
    assert read_result(tmp_path) == result


def test_equal_results_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_result(job(val_loss=1.25), tmp_path / name)
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_a_figure_that_is_no_number_is_read_back_as_none(tmp_path):
    write_result(job(val_loss=float("nan"), best=float("inf")), tmp_path)
    found = read_result(tmp_path)
    assert found is not None
    assert found.metrics == {"val_loss": None, "best": None}


def test_a_folder_without_a_record_gives_none(tmp_path):
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "absent") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"number": 1}',
        '{"number":0,"folder":"f","arm":"a","scenario":"s","variant":"","seed":0,'
        '"status":"failed","metrics":3}',
        '{"number":0,"folder":"f","arm":"a","scenario":"s","variant":"","seed":"x",'
        '"status":"failed"}',
        '{"number":0,"folder":"f","arm":"a","scenario":"s","variant":"","seed":0,"status":"done"}',
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(StorageError) as caught:
        read_result(tmp_path)
    assert str(caught.value) == (
        f"bench: {tmp_path / FILE} is not the record of a job; delete the file to run the job again"
    )


def test_cells_come_in_the_order_of_the_job_numbers():
    jobs = [
        job(2, scenario="too_few"),
        job(1, variant="lifecycle=aggressive"),
        job(0),
        job(3, scenario="too_few", arm="lifecycle"),
    ]
    assert cells(jobs) == [("none", ""), ("none", "lifecycle=aggressive"), ("too_few", "")]


def test_only_jobs_with_the_metric_are_paired():
    jobs = [
        job(0, seed=4, val_loss=4.0),
        job(1, seed=1, val_loss=1),
        job(2, seed=2, val_loss=None),
        job(3, seed=3),
        job(4, seed=5, status="failed", val_loss=5.0),
        job(5, seed=6, status="skipped", val_loss=5.0),
        job(6, seed=7, status="no_edit", val_loss=7.0),
        job(7, seed=8, arm="lens", val_loss=8.0),
        job(8, seed=8, scenario="too_few", val_loss=8.0),
        job(9, seed=8, variant="x=1", val_loss=8.0),
    ]
    found = paired(jobs, "none", "", "static", "val_loss")
    assert list(found.items()) == [(1, 1.0), (4, 4.0), (7, 7.0)]
    assert type(found[1]) is float
