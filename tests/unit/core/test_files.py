from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from chronorun.core.files import fsync_dir, sha256_file, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"old" * 1000, b"new"):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert sha256_file(path) == hashlib.sha256(content).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failure_leaves_the_old_file_and_no_scraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("no space")

    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"\Ano space\Z"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_atomic_file_has_the_permissions_of_a_plain_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_flushing_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    fsync_dir(tmp_path / "missing")
