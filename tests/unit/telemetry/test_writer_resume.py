"""A telemetry folder continued at a checkpoint equals one written in one go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chronorun.errors import StorageError
from chronorun.telemetry import LayerSnapshot, RoutingEvent, SystemSnapshot, TelemetryWriter


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
