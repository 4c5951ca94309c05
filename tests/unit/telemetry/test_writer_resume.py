"""A telemetry folder continued at a checkpoint equals one written in one go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chronorun.errors import StorageError
from chronorun.telemetry import (
    LayerSnapshot,
    RoutingEvent,
    SystemSnapshot,
    TelemetryWriter,
    load_events,
)


def write_step(writer: TelemetryWriter, step: int) -> None:
    counts = np.array([step, 1])
    writer.write_event(
        RoutingEvent.from_router_output("r", step, "TRAIN", 0, counts, 2, 1, timestamp=0.0)
    )
    if step % 2 == 0:
        layer = LayerSnapshot.from_shares(0, counts / counts.sum())
        writer.write_snapshot(SystemSnapshot(step, 0.0, 1 / 3, None, [layer], [], "r", "m"))


@pytest.mark.parametrize("checkpoint", [0, 1, 3])
def test_a_resumed_writer_gives_the_same_bytes(tmp_path: Path, checkpoint: int) -> None:
    with TelemetryWriter("r", tmp_path / "whole") as whole:
        for step in range(6):
            write_step(whole, step)
    with TelemetryWriter("r", tmp_path / "cut") as first:
        for step in range(checkpoint):
            write_step(first, step)
        saved = first.state()
        for step in range(checkpoint, 5):
            write_step(first, step)
    with TelemetryWriter("r", tmp_path / "cut", resume=saved) as second:
        for step in range(checkpoint, 6):
            write_step(second, step)
    for path in (whole.events_path, whole.snapshots_path):
        cut = tmp_path / "cut" / "r" / path.name
        assert cut.read_bytes() == path.read_bytes()
        assert cut.with_name(f"{path.name}.orphaned-1").exists()


def test_a_folder_in_use_is_not_written_into_without_a_resume(tmp_path: Path) -> None:
    with TelemetryWriter("r", tmp_path) as writer:
        write_step(writer, 1)
    size = writer.events_path.stat().st_size
    with pytest.raises(StorageError) as caught, TelemetryWriter("r", tmp_path) as second:
        write_step(second, 1)
    assert str(caught.value) == (
        f"log: {writer.events_path} holds {size} bytes already, expected a new file; "
        f"resume the run or choose another folder"
    )


@pytest.mark.parametrize("name", ["routing_events.jsonl", "snapshots.jsonl"])
@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_a_damaged_log_is_named_at_the_resume(tmp_path: Path, name: str, damage: str) -> None:
    with TelemetryWriter("r", tmp_path) as writer:
        for step in range(3):
            write_step(writer, step)
        saved = writer.state()
    path = writer.run_dir / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "shorter" else content.replace(b"1", b"7", 1))
    with pytest.raises(StorageError) as caught:
        TelemetryWriter("r", tmp_path, resume=saved)
    assert str(caught.value) == (
        f"log: {path} differs from what the checkpoint recorded in its first {len(content)} "
        f"bytes; resume from another checkpoint or restore the file"
    )


def test_the_callers_list_of_events_is_left_alone(tmp_path: Path) -> None:
    events = [
        RoutingEvent.from_router_output("r", step, "TRAIN", 0, [1, 2], 2, 1, timestamp=0.0)
        for step in range(2)
    ]
    with TelemetryWriter("r", tmp_path) as writer:
        assert [writer.flush_events(events), len(events)] == [2, 2]
        assert [writer.flush_events(tuple(events)), writer.flush_events([])] == [2, 0]
    assert load_events(writer.events_path) == events + events
