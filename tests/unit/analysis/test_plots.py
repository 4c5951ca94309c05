"""Plots of a run as files."""

from __future__ import annotations

import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_runs import HOSTILE, SEED_RECORD, small_run, write_log

from chronorun.analysis.reading.run import Run
from chronorun.analysis.report.plots import write_plot
from chronorun.errors import UserError


def test_a_png_is_written(tmp_path: Path) -> None:
    write_plot(Run.open(small_run(tmp_path / "small")), tmp_path / "run.PNG")
    data = (tmp_path / "run.PNG").read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width == 1200
    assert height > 600


def test_an_svg_names_run_actions_and_experts(tmp_path: Path) -> None:
    write_plot(Run.open(small_run(tmp_path / "small")), tmp_path / "run.svg")
    root = ElementTree.parse(tmp_path / "run.svg").getroot()
    words = {"".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")}
    assert "small    S split, M merge, U rollback" in words
    assert {"S", "M", "U", "E0", "E1", "E2", "training", "validation", "step"} <= words


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_equal_runs_give_equal_files(tmp_path: Path, ending: str) -> None:
    run = Run.open(small_run(tmp_path / "small"))
    for name in ("one", "other"):
        write_plot(run, tmp_path / f"{name}.{ending}")
    one, other = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "other"))
    assert one == other


def test_the_published_record_alone_is_plotted(tmp_path: Path) -> None:
    write_log(tmp_path / "run", "lifecycle_decisions", [SEED_RECORD])
    write_plot(Run.open(tmp_path / "run"), tmp_path / "run.svg")
    assert "experiment_42" in (tmp_path / "run.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("checkpoints", [0, 1])
def test_a_very_short_run_is_plotted(tmp_path: Path, checkpoints: int) -> None:
    folder = small_run(tmp_path / "small", checkpoints)
    (folder / "lifecycle_decisions.jsonl").write_text("")
    write_plot(Run.open(folder), tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 1000


@pytest.mark.parametrize("value", [*HOSTILE, r"$\frac{", "a_{b}^"], ids=range(len(HOSTILE) + 2))
def test_hostile_text_stays_text(tmp_path: Path, value: str) -> None:
    record = SEED_RECORD | {"run_id": value, "expert_id": value, "parent_id": value}
    write_log(tmp_path / "run", "lifecycle_decisions", [record])
    write_log(
        tmp_path / "run",
        "snapshots",
        [{"step": 10, "layers": [
            {"layer_id": 2, "utilization_shares": [1.0], "expert_ids": [value]},
        ]}],
    )  # fmt: skip
    for ending in ("svg", "png"):
        write_plot(Run.open(tmp_path / "run"), tmp_path / f"run.{ending}")
    text = (tmp_path / "run.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "<script" not in text
    assert not set(text) & set("\x1b\x07\u202e\u2066")


@pytest.mark.parametrize(
    ("name", "said"), [("run.pdf", ".pdf"), ("run", "nothing"), ("run.png.gz", ".gz")]
)
def test_another_ending_is_refused(tmp_path: Path, name: str, said: str) -> None:
    run = Run.open(small_run(tmp_path / "small"))
    with pytest.raises(UserError) as caught:
        write_plot(run, tmp_path / name)
    assert str(caught.value) == (
        f"plot: {tmp_path / name} ends in {said}, expected .png or .svg; name a file such as "
        f"run.png"
    )
    assert not (tmp_path / name).exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    run = Run.open(small_run(tmp_path / "small"))
    with pytest.raises(UserError) as caught:
        write_plot(run, tmp_path / "no" / "run.png")
    assert str(caught.value) == (
        f"plot: {tmp_path / 'no'} is no folder, expected one; make it first"
    )
