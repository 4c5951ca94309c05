"""Writes and reads a run folder's telemetry files, for a training loop of your own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from chronorun.core.files import write_atomically
from chronorun.core.jsonl import EMPTY_LOG, JsonlWriter, LogState, encode_json, read_jsonl
from chronorun.core.run_files import MANIFEST, log_file
from chronorun.errors import StorageError
from chronorun.telemetry.events import RoutingEvent
from chronorun.telemetry.snapshots import SystemSnapshot


class TelemetryWriter:
    """Writes ``routing_events.jsonl``, ``snapshots.jsonl`` and ``run_manifest.json`` of one run.

    Files are opened once, at the first record, and every record is one write. ``resume`` is what
    ``state`` returned at a checkpoint: each log is cut back to it first, and what lies beyond kept
    as ``*.orphaned-N``. Raises StorageError when a log is there and is not resumed.
    """

    def __init__(
        self,
        run_id: str,
        output_dir: str | Path = "outputs",
        resume: Mapping[str, LogState] | None = None,
    ) -> None:
        self.run_id = run_id
        self.run_dir = Path(output_dir) / run_id
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.events_path = self.run_dir / log_file("routing_events")
        self.snapshots_path = self.run_dir / log_file("snapshots")
        self.manifest_path = self.run_dir / MANIFEST
        self._writers: dict[str, JsonlWriter] = {}
        if resume is not None:
            try:
                self._resume(resume)
            except StorageError:
                self.close()
                raise

    def _resume(self, states: Mapping[str, LogState]) -> None:
        for path in (self.events_path, self.snapshots_path):
            # A log begun after the checkpoint starts anew.
            if path.name in states or path.exists():
                state = states.get(path.name, EMPTY_LOG)
                self._writers[path.name] = JsonlWriter(path, resume_at=state)

    def _writer(self, path: Path) -> JsonlWriter:
        if path.name not in self._writers:
            self._writers[path.name] = JsonlWriter(path)
        return self._writers[path.name]

    def state(self) -> dict[str, LogState]:
        """Return length and prefix hash of each log begun so far, by file name."""
        return {name: writer.state() for name, writer in self._writers.items()}

    def write_event(self, event: RoutingEvent) -> None:
        """Append one routing event."""
        self._writer(self.events_path).write(event.to_dict())

    def write_events_batch(self, events: Iterable[RoutingEvent]) -> None:
        """Append several routing events."""
        for event in events:
            self.write_event(event)

    def flush_events(self, events: Sequence[RoutingEvent]) -> int:
        """Append the events and return how many there were; the list is left as it is."""
        self.write_events_batch(events)
        return len(events)

    def write_snapshot(self, snapshot: SystemSnapshot) -> None:
        """Append one snapshot."""
        self._writer(self.snapshots_path).write(snapshot.to_dict())

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
    text = msgspec.json.format(encode_json(dict(manifest)), indent=2)
    write_atomically(run_dir / MANIFEST, text + b"\n")


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
