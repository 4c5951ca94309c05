"""The telemetry files of a run folder, for people who record a training loop of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from chronorun.core.files import write_atomically
from chronorun.core.jsonl import JsonlWriter, read_jsonl
from chronorun.errors import StorageError
from chronorun.telemetry.events import RoutingEvent
from chronorun.telemetry.snapshots import SystemSnapshot


class TelemetryWriter:
    """Writes ``routing_events.jsonl``, ``snapshots.jsonl`` and ``run_manifest.json`` of one run.

    Files are opened once, at the first record, and every record is one write.
    """

    def __init__(self, run_id: str, output_dir: str | Path = "outputs") -> None:
        self.run_id = run_id
        self.run_dir = Path(output_dir) / run_id
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._writers: dict[str, JsonlWriter] = {}

    def _writer(self, name: str) -> JsonlWriter:
        if name not in self._writers:
            self._writers[name] = JsonlWriter(self.run_dir / name)
        return self._writers[name]

    def write_event(self, event: RoutingEvent) -> None:
        """Append one routing event."""
        self._writer("routing_events.jsonl").write(event.to_dict())

    def write_events_batch(self, events: Iterable[RoutingEvent]) -> None:
        """Append several routing events."""
        for event in events:
            self.write_event(event)

    def flush_events(self, events: list[RoutingEvent]) -> int:
        """Append the events, empty the list and return how many there were."""
        count = len(events)
        self.write_events_batch(events)
        events.clear()
        return count

    def write_snapshot(self, snapshot: SystemSnapshot) -> None:
        """Append one snapshot."""
        self._writer("snapshots.jsonl").write(snapshot.to_dict())

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write ``run_manifest.json``, atomically."""
        write_manifest(self.run_dir, manifest)

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def __enter__(self) -> TelemetryWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def write_manifest(run_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``run_manifest.json`` into a run folder, atomically."""
    text = msgspec.json.format(msgspec.json.encode(dict(manifest)), indent=2)
    write_atomically(run_dir / "run_manifest.json", text + b"\n")


def load_events(path: str | Path) -> list[RoutingEvent]:
    """Read ``routing_events.jsonl``, ours or v2's."""
    return [RoutingEvent.from_dict(record) for record in read_jsonl(path)]


def load_snapshots(path: str | Path) -> list[SystemSnapshot]:
    """Read ``snapshots.jsonl``, ours or v2's."""
    return [SystemSnapshot.from_dict(record) for record in read_jsonl(path)]


def load_manifest(path: str | Path) -> dict[str, Any]:
    """Read ``run_manifest.json``. Raises StorageError when it is not a JSON object."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StorageError(f"manifest: {path} is not a JSON object ({error})") from error
