"""A log cut at any byte keeps its whole lines, and the next record is readable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from chronorun.core.jsonl import JsonlWriter, LogState, read_jsonl
from chronorun.errors import StorageError
from chronorun.training.logs import RunLogs
from reliability.figures import Figures

NEXT = {"step": 99, "said": "after the cut"}


@pytest.fixture(scope="module")
def lines(uninterrupted: Path) -> list[bytes]:
    """Whole lines of real logs, of many lengths."""
    logs = ("metrics", "scenario_events", "expert_transitions", "timings")
    found: list[bytes] = []
    for name in logs:
        path = uninterrupted / f"{name}.jsonl"
        if path.exists():
            found += path.read_bytes().splitlines(keepends=True)[:3]
    return found


def cuts(content: bytes, exhaustive: bool) -> range:
    return range(0, len(content) + 1, 1 if exhaustive else 17)


def test_a_reader_gets_every_whole_line(
    tmp_path: Path, lines: list[bytes], count: Figures, exhaustive: bool
) -> None:
    content, path = b"".join(lines), tmp_path / "cut.jsonl"
    records = [json.loads(line) for line in lines]
    for cut in cuts(content, exhaustive):
        path.write_bytes(content[:cut])
        found = list(read_jsonl(path))
        kept = content[:cut].count(b"\n")
        # A line that lacks nothing but its end is a whole record, too.
        assert found in (records[:kept], records[: kept + 1])
        assert len(found) == kept or content[cut : cut + 1] == b"\n"
        count("logs cut at every byte, read", held=True)


def test_a_resumed_log_goes_on_after_the_cut(
    tmp_path: Path, lines: list[bytes], count: Figures, exhaustive: bool
) -> None:
    content, path = b"".join(lines), tmp_path / "cut.jsonl"
    for cut in cuts(content, exhaustive):
        path.write_bytes(content[:cut])
        prefix = content[: content.rfind(b"\n", 0, cut) + 1]
        state = LogState(len(prefix), hashlib.sha256(prefix).hexdigest())
        writer = JsonlWriter(path, resume_at=state)
        writer.write(NEXT)
        writer.close()
        assert path.read_bytes().startswith(prefix)
        assert list(read_jsonl(path)) == [*map(json.loads, prefix.splitlines()), NEXT]
        orphan = tmp_path / "cut.jsonl.orphaned-1"
        torn = orphan.read_bytes() if orphan.exists() else b""
        assert torn == content[len(prefix) : cut]
        orphan.unlink(missing_ok=True)
        count("logs cut at every byte, resumed", held=True)


def test_a_cut_before_what_the_checkpoint_knows_is_refused(
    tmp_path: Path, lines: list[bytes], count: Figures, exhaustive: bool
) -> None:
    content, path = b"".join(lines), tmp_path / "cut.jsonl"
    state = LogState(len(content), hashlib.sha256(content).hexdigest())
    for cut in cuts(content[:-1], exhaustive):
        path.write_bytes(content[:cut])
        with pytest.raises(StorageError, match="differs from what the checkpoint recorded"):
            JsonlWriter(path, resume_at=state)
        assert path.read_bytes() == content[:cut]
        count("logs cut within a checkpoint's prefix, refused", held=True)


def test_timings_go_on_after_the_cut(
    tmp_path: Path, uninterrupted: Path, count: Figures, exhaustive: bool
) -> None:
    content = b"".join((uninterrupted / "timings.jsonl").read_bytes().splitlines(True)[:5])
    path = tmp_path / "timings.jsonl"
    for cut in cuts(content, exhaustive):
        path.write_bytes(content[:cut])
        logs = RunLogs(tmp_path)
        logs.timings.write(NEXT)
        logs.close()
        prefix = content[: content.rfind(b"\n", 0, cut) + 1]
        assert list(read_jsonl(path)) == [*map(json.loads, prefix.splitlines()), NEXT]
        count("timings cut at every byte, resumed", held=True)
