"""Archived experts come back as they were, or with one line that says why they cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from unit.lifecycle.small_run import SmallRun, same

from chronorun.errors import StorageError
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.edit.archive import Archive, Archived, flatten_saved, nest_saved
from chronorun.lifecycle.edit.saved import Saved

VALUES = {"experts.w1": torch.randn(3, 4), "router.load": torch.tensor(5)}
MOMENTS = {"experts.w1": {"exp_avg": torch.randn(3, 4), "exp_avg_sq": torch.rand(3, 4)}}


def archived(centroid: bool = True) -> Archived:
    return Archived(Saved(VALUES, MOMENTS), torch.arange(4.0) if centroid else None)


def assert_as_put(got: Archived, centroid: bool = True) -> None:
    assert same(flatten_saved(got.saved), flatten_saved(archived().saved))
    assert (got.centroid_D is not None) is centroid
    if got.centroid_D is not None:
        assert torch.equal(got.centroid_D, torch.arange(4.0))


@pytest.fixture(params=["disk", "memory"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive" if request.param == "disk" else None)


@pytest.mark.parametrize("centroid", [True, False])
def test_an_expert_comes_back_as_it_was(archive: Archive, centroid: bool) -> None:
    assert "L0_E3" not in archive
    archive.put("L0_E3", 40, archived(centroid))
    assert "L0_E3" in archive
    assert_as_put(archive.get("L0_E3"), centroid)
    other = Archive(archive.folder)
    other.load_state_dict(archive.state_dict())
    assert_as_put(other.get("L0_E3"), centroid)
    archive.drop("L0_E3")
    assert "L0_E3" not in archive
    archive.drop("L0_E3")


def test_what_is_kept_does_not_change_with_the_model(archive: Archive) -> None:
    values = {name: value.clone() for name, value in VALUES.items()}
    archive.put("L0_E3", 40, Archived(Saved(values, MOMENTS), torch.arange(4.0)))
    values["experts.w1"].zero_()
    assert_as_put(archive.get("L0_E3"))


def test_a_file_is_named_by_expert_and_step_and_outlives_a_return(tmp_path: Path) -> None:
    """A resume from an earlier checkpoint finds the file that this checkpoint knows."""
    archive = Archive(tmp_path)
    archive.put("L0_E3", 40, archived())
    known = archive.state_dict()
    archive.drop("L0_E3")
    archive.put("L0_E3", 90, Archived(Saved({"experts.w1": torch.zeros(1)}), None))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "L0_E3-step00000040.safetensors",
        "L0_E3-step00000090.safetensors",
    ]
    assert archive.get("L0_E3").centroid_D is None
    archive.load_state_dict(known)
    assert_as_put(archive.get("L0_E3"))
    assert known["memory"] == {}


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.put("L0_E3", 40, archived())
    path = tmp_path / "L0_E3-step00000040.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = f"archive: {path} differs from its sha256; restore the file"
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        archive.get("L0_E3")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.put("L0_E3", 40, archived())
    path = tmp_path / "L0_E3-step00000040.safetensors"
    path.unlink()
    message = f"archive: {path} cannot be read (No such file or directory); restore the file"
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        archive.get("L0_E3")


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.write_text("a file where the folder should be")
    path = folder / "L0_E3-step00000040.safetensors"
    message = (
        f"archive: {path} could not be written (File exists); free some disk space, then resume"
    )
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        Archive(folder).put("L0_E3", 40, archived())


def test_names_with_dots_and_entries_survive_flattening() -> None:
    flat = flatten_saved(archived().saved)
    assert set(flat) == {
        "values|experts.w1",
        "values|router.load",
        "moments|experts.w1|exp_avg",
        "moments|experts.w1|exp_avg_sq",
    }
    back = nest_saved(flat)
    assert back.values.keys() == VALUES.keys()
    assert back.moments["experts.w1"].keys() == MOMENTS["experts.w1"].keys()


def test_an_expert_that_returns_from_disk_is_the_one_that_left(archive: Archive) -> None:
    run = SmallRun(archive=archive)
    run.train(5)
    before = run.everything("L0_E3")
    run.prune("L0_E3")
    assert "L0_E3" in archive
    run.train(2)
    run.birth(Action.REVIVE, 0, "L0_E3")
    assert "L0_E3" not in archive
    after = run.everything("L0_E3")
    for name in ("experts.w1", "experts.w2", "experts.w1|exp_avg_sq"):
        assert torch.equal(before[name], after[name])
    assert float(after["router.logit_offset"]) == -5.0
