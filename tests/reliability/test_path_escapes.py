"""Names in a run folder or on the command line lead nowhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from warm.commands import Commands

from chronorun.core.jsonl import EMPTY_LOG, JsonlWriter
from chronorun.errors import StorageError
from chronorun.lifecycle.edit.archive import Archive, Archived
from chronorun.lifecycle.edit.saved import Saved
from chronorun.training.logs import RunLogs
from reliability.figures import Figures

PRECIOUS = b"nobody's log\n"


@pytest.mark.parametrize("name", ["metrics", "snapshots", "timings"])
def test_a_log_that_is_a_link_is_refused(tmp_path: Path, name: str, count: Figures) -> None:
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_bytes(PRECIOUS)
    run.mkdir()
    log = run / f"{name}.jsonl"
    log.symlink_to(precious)
    saved = {name: {"offset": 0, "sha256": hashlib.sha256().hexdigest()}}
    with pytest.raises(StorageError) as caught:
        RunLogs(run, saved)
    assert str(caught.value) == (
        f"log: {log} is not a plain file, expected one; put the file itself there, then resume"
    )
    assert precious.read_bytes() == PRECIOUS
    count("links in place of logs refused", held=True)


def test_a_link_to_nothing_is_refused_for_a_new_log(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "made")
    for resume_at in (None, EMPTY_LOG):
        with pytest.raises(StorageError, match=r"a\.jsonl is not a plain file, expected one"):
            JsonlWriter(tmp_path / "a.jsonl", resume_at=resume_at)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("expert_id", ["../../L0_E1", "/tmp/L0_E1", "..", "a/b", ""])
def test_an_expert_whose_id_is_a_path_is_not_archived(
    tmp_path: Path, expert_id: str, count: Figures
) -> None:
    archive = Archive(tmp_path / "run" / "archive")
    with pytest.raises(StorageError) as caught:
        archive.put(expert_id, 1, Archived(Saved({"w": torch.zeros(2)}), None))
    assert str(caught.value) == (
        f"archive: {f'{expert_id}-step00000001.safetensors'!r} is no name of an archived expert's "
        f"file; resume from another checkpoint"
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    count("path escapes refused", held=True)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/hostname", "", "."])
def test_an_archived_file_elsewhere_is_not_read(tmp_path: Path, name: str, count: Figures) -> None:
    archive = Archive(tmp_path / "archive")
    (tmp_path / "archive").mkdir()
    entry = {"file": name, "sha256": hashlib.sha256(b"secret").hexdigest()}
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    archive.load_state_dict({"index": {"L0_E1": entry}, "memory": {}})
    with pytest.raises(StorageError) as caught:
        archive.get("L0_E1")
    assert str(caught.value) == (
        f"archive: {name!r} is no name of an archived expert's file; resume from another checkpoint"
    )
    count("path escapes refused", held=True)


@pytest.mark.parametrize(
    "run_id", ["../escaped", "a/b", "..", "/abs", "a\\/b", "run", "bench", ".hidden", "x\ny"]
)
def test_a_run_id_is_a_name(
    run_id: str, run_command: Commands, place: Path, overrides: tuple[str, ...], count: Figures
) -> None:
    cwd = place / "deep" / "down"
    done = run_command(cwd, "train", *overrides[:-2], overrides[-1], f"run_id='{run_id}'")
    assert done.code == 2, done.told
    assert done.err.count("\n") == 1
    assert "run_id" in done.err
    made = [path for path in place.rglob("*") if path.name not in ("stdout.txt", "stderr.txt")]
    assert sorted(made) == [cwd.parent, cwd]
    count("path escapes refused", held=True)
