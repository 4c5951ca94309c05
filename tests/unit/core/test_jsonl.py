"""Logs survive crashes: whole lines, an intact prefix, and nothing thrown away on a resume."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from chronorun.core.jsonl import EMPTY_LOG, JsonlWriter, LogState, encode_json, read_jsonl
from chronorun.errors import StorageError

FINITE = st.floats(allow_nan=False, allow_infinity=False)
RECORDS = st.lists(st.dictionaries(st.text(max_size=5), FINITE | st.text(max_size=9)), max_size=8)


def write_all(path: Path, records: list[dict[str, Any]]) -> LogState:
    writer = JsonlWriter(path)
    for record in records:
        writer.write(record)
    writer.close()
    return writer.state()


@given(records=RECORDS)
def test_records_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.jsonl"
    state = write_all(path, records)
    assert list(read_jsonl(path)) == records
    assert path.read_bytes().count(b"\n") == len(records)
    assert state == LogState(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


@given(records=RECORDS, data=st.data())
def test_a_resumed_log_equals_one_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    whole = write_all(folder / "whole.jsonl", records)
    checkpoint = data.draw(st.integers(0, len(records)))
    path = folder / "cut.jsonl"
    writer = JsonlWriter(path)
    for record in records[:checkpoint]:
        writer.write(record)
    saved = writer.state()
    for record in records[checkpoint:]:
        writer.write(record)
    writer.close()
    # The crash tears a line; whatever was written since the checkpoint is kept aside.
    torn = data.draw(st.binary(max_size=20))
    path.write_bytes(path.read_bytes() + torn)
    tail = path.read_bytes()[saved.offset :]
    resumed = JsonlWriter(path, resume_at=saved)
    resumed.write_all(records[checkpoint:])
    resumed.close()
    assert path.read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert resumed.state() == whole
    kept = folder / "cut.jsonl.orphaned-1"
    assert (kept.read_bytes() if kept.exists() else b"") == tail


def test_each_resume_keeps_its_own_orphan(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_all(path, [{"n": 0}])
    for n in (1, 2):
        writer = JsonlWriter(path, resume_at=EMPTY_LOG)
        writer.write({"n": n})
        writer.close()
    assert path.read_bytes() == b'{"n":2}\n'
    assert (tmp_path / "a.jsonl.orphaned-1").read_bytes() == b'{"n":0}\n'
    assert (tmp_path / "a.jsonl.orphaned-2").read_bytes() == b'{"n":1}\n'


def test_a_long_prefix_is_checked_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    saved = write_all(path, [{"text": "x" * 700_000, "n": n} for n in range(4)])
    JsonlWriter(path, resume_at=saved).close()
    assert not (tmp_path / "a.jsonl.orphaned-1").exists()
    assert path.stat().st_size == saved.offset


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_a_damaged_prefix_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl"
    saved = write_all(path, [{"n": 1}, {"n": 2}])
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "shorter" else content.replace(b"1", b"3"))
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(StorageError) as caught:
        JsonlWriter(path, resume_at=saved)
    assert str(caught.value) == (
        f"log: {path} differs from what the checkpoint recorded in its first {len(content)} "
        f"bytes; resume from another checkpoint or restore the file"
    )
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_new_log_does_not_continue_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_all(path, [{"n": 1}])
    with pytest.raises(StorageError) as caught:
        JsonlWriter(path)
    assert str(caught.value) == (
        f"log: {path} holds 8 bytes already, expected a new file; "
        f"resume the run or choose another folder"
    )


def test_a_record_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JsonlWriter(tmp_path / "a.jsonl")
    written: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda fd, line: written.append(line) or len(line))
    writer.write({"a": [1, 2.5, None], "b": "ä"})
    assert written == ['{"a":[1,2.5,null],"b":"ä"}\n'.encode()]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, line: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.jsonl"
    writer = JsonlWriter(path)
    writer.write({"n": 1})
    saved = writer.state()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError) as caught:
            writer.write({"n": 2})
    assert str(caught.value) == (
        f"log: {path} could not be written (No space left on device); "
        f"free some disk space or check the folder, then resume"
    )
    assert writer.state() == saved


def test_a_line_cut_short_by_the_disk_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    writer = JsonlWriter(path)
    writer.write({"n": 1})
    saved = writer.state()
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, line: real(fd, line[:3]))
        with pytest.raises(StorageError) as caught:
            writer.write({"n": 2})
    assert str(caught.value) == (f"log: {path} could not take a whole line; free some disk space")
    assert writer.state() == saved
    writer.close()
    resumed = JsonlWriter(path, resume_at=saved)
    resumed.write({"n": 2})
    assert path.read_bytes() == b'{"n":1}\n{"n":2}\n'
    assert (tmp_path / "a.jsonl.orphaned-1").read_bytes() == b'{"n'


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2,"te')
    assert list(read_jsonl(path)) == [{"n": 1}]
    path.write_bytes(b'{"n":1}\n{"t":"\xc3')
    assert list(read_jsonl(path)) == [{"n": 1}]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (b'{"n":', "is not JSON (Input data was truncated); restore the file"),
        (b"[1]", "is a list, expected an object; restore the file"),
        (b'{"n":NaN,', "is not JSON (JSON is malformed: invalid character (byte 5)); restore"),
    ],
)
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, bad: bytes, complaint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n":1}\n' + bad + b'\n{"n":3}\n')
    with pytest.raises(StorageError) as caught:
        list(read_jsonl(path))
    assert str(caught.value).startswith(f"log: {path} line 2 {complaint}")


def test_logs_written_by_pythons_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "v2.jsonl"
    path.write_text(json.dumps({"val_loss": float("inf"), "train_loss": float("nan")}) + "\n")
    (record,) = read_jsonl(path)
    assert record["val_loss"] == float("inf")
    assert record["train_loss"] != record["train_loss"]


def test_names_that_are_no_utf8_are_written_with_their_bytes(tmp_path: Path) -> None:
    record = {"caf\udce9": ["a", ("b\udcff", 1.5)], "plain": {"é": None}}
    written = {"caf\\udce9": ["a", ["b\\udcff", 1.5]], "plain": {"é": None}}
    assert json.loads(encode_json(record, order="deterministic")) == written
    writer = JsonlWriter(tmp_path / "log.jsonl")
    writer.write_all([{"step": 1}, record])
    writer.close()
    assert list(read_jsonl(tmp_path / "log.jsonl")) == [{"step": 1}, written]
    assert (
        writer.state().sha256 == hashlib.sha256((tmp_path / "log.jsonl").read_bytes()).hexdigest()
    )


def test_json_of_anything_else_is_what_it_was() -> None:
    value = {"b": 1, "a": [0.1, "é", None]}
    assert encode_json(value, order="deterministic") == '{"a":[0.1,"é",null],"b":1}'.encode()
