"""However a run ends, all is closed, and what went wrong first is what is raised."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chronorun.errors import RunInterrupted, StorageError
from chronorun.training.context import RunContext
from chronorun.training.logs import RunLogs
from chronorun.training.run_end import RunEnd

DONE = ["priors", "scenario", "summary", "decisions", "trackers"]


class Parts:
    """Stands for a trainer, its heartbeat, its scenario and the trackers; notes what is called."""

    def __init__(self, failing: tuple[str, ...]) -> None:
        self.failing, self.done, self.told = failing, list[str](), dict[str, Any]()
        self.parts = {"heartbeat": Part(self, "priors"), "scenario": Part(self, "scenario")}

    def do(self, what: str) -> None:
        self.done.append(what)
        if what in self.failing:
            raise OSError(f"no space for {what}")

    def summary(self, status: str, extra: dict[str, Any]) -> dict[str, Any]:
        self.do("summary")
        return {"status": status, **extra}

    def show_decisions(self) -> None:
        self.do("decisions")

    def finish(self, summary: dict[str, Any]) -> None:
        self.told = summary
        self.do("trackers")


class Part:
    def __init__(self, whole: Parts, name: str) -> None:
        self.whole, self.name = whole, name

    def finish(self, run_dir: Path) -> None:
        self.whole.do(self.name)


def context_of(run: Path, logs: RunLogs, parts: Any) -> RunContext:
    nothing: Any = None
    config: Any = SimpleNamespace(run_id="x")
    return RunContext(config, run, nothing, nothing, logs, parts)


def end_of(run: Path, parts: Any, error: BaseException | None) -> RunLogs:
    run.mkdir()
    logs = RunLogs(run)
    with RunEnd(context_of(run, logs, parts), {"extra": 1}) as end:
        end.trainer = parts
        if error is not None:
            raise error
    return logs


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "completed"),
        (StorageError("disk full"), "failed"),
        (RunInterrupted("stopped", 2), "interrupted"),
        (KeyboardInterrupt(), "failed"),
    ],
)
def test_all_is_closed_and_the_status_told(
    tmp_path: Path, error: BaseException | None, status: str
) -> None:
    parts = Parts(())
    with nullcontext() if error is None else pytest.raises(type(error)):
        end_of(tmp_path / "x", parts, error)
    assert parts.done == DONE
    assert parts.told == {"status": status, "extra": 1}
    assert json.loads((tmp_path / "x/summary.json").read_text())["status"] == status


def test_an_error_at_the_end_does_not_hide_the_first(tmp_path: Path) -> None:
    parts = Parts(tuple(DONE))
    with pytest.raises(StorageError, match=r"^disk full$"):
        end_of(tmp_path / "x", parts, StorageError("disk full"))
    assert parts.done == DONE
    assert parts.told == {"run_id": "x", "status": "failed"}


def test_of_errors_at_the_end_the_first_is_raised(tmp_path: Path) -> None:
    parts = Parts(("scenario", "decisions"))
    with pytest.raises(OSError, match=r"^no space for scenario$"):
        end_of(tmp_path / "x", parts, None)
    assert parts.done == DONE
    assert json.loads((tmp_path / "x/summary.json").read_text())["status"] == "completed"


def test_logs_and_trackers_are_closed_where_there_is_no_trainer_yet(tmp_path: Path) -> None:
    parts, logs = Parts(()), RunLogs(tmp_path)
    with pytest.raises(ValueError), RunEnd(context_of(tmp_path, logs, parts), {}):
        raise ValueError
    assert parts.done == ["trackers"]
    assert parts.told == {"run_id": "x", "status": "failed"}


def test_each_log_is_closed_where_some_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    logs = RunLogs(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        logs.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
