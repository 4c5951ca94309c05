from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import leet
import pytest
from tracker_fakes import run_info

from chronorun.config.observing import WandbConfig, WandbMode
from chronorun.tracking.wandb_tracker import WandbTracker, chosen_mode, wandb_run_id

KEY = "k" * 40


class FakeRun:
    def __init__(self, broken: tuple[str, ...]) -> None:
        self.broken = broken
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.summary: dict[str, Any] = {}
        self.exit_codes: list[int] = []

    def log(self, row: dict[str, Any], step: int) -> None:
        if "log" in self.broken:
            raise ConnectionError(f"lost, key {KEY}\nmore")
        self.rows.append((step, row))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        if "finish" in self.broken:
            raise BrokenPipeError


class FakeWandb:
    """Stands in for the wandb module; raises where told to, starts when let."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.may_start = threading.Event()
        self.may_start.set()
        self.runs: list[FakeRun] = []
        self.inits: list[dict[str, Any]] = []

    def Settings(self, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(**settings)

    def Table(self, columns: list[str], data: list[list[object]]) -> tuple[Any, ...]:
        return ("table", columns, data)

    def setup(self, settings: SimpleNamespace) -> None:
        assert settings.silent

    def init(self, **options: Any) -> FakeRun:
        self.may_start.wait(10)
        self.inits.append(options)
        if "init" in self.broken:
            raise SystemExit(1)
        self.runs.append(FakeRun(self.broken))
        return self.runs[-1]


@pytest.fixture
def notices() -> list[str]:
    return []


def tracker_with(
    fake: FakeWandb, notices: list[str], monkeypatch: pytest.MonkeyPatch, **config: Any
) -> WandbTracker:
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return WandbTracker(WandbConfig(mode=WandbMode.offline, **config), notices.append)


def wait_until_up(tracker: WandbTracker) -> None:
    assert tracker._thread is not None
    tracker._thread.join(10)


@pytest.mark.parametrize(
    ("mode", "variable", "chosen"),
    [
        (WandbMode.auto, None, "offline"),
        (WandbMode.auto, "", "offline"),
        (WandbMode.auto, "online", "online"),
        (WandbMode.auto, "disabled", "disabled"),
        (WandbMode.offline, "online", "offline"),
        (WandbMode.disabled, "online", "disabled"),
    ],
)
def test_the_config_then_the_variable_then_offline(
    mode: WandbMode, variable: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert chosen_mode(WandbConfig(mode=mode)) == chosen


def test_disabled_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from chronorun.config.run import RunConfig\n"
        "from chronorun.core.tracker import RunInfo\n"
        "from chronorun.tracking import build_trackers\n"
        "group = build_trackers(RunConfig(), Path(sys.argv[1]))\n"
        "group.start(RunInfo('r', Path(sys.argv[1]), 1, 0, 1, {}, {}, None))\n"
        "group.log(1, {'train/loss': 1.0}); group.finish({})\n"
        "print({'wandb', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_what_is_logged_before_the_start_is_kept_in_order(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    fake.may_start.clear()
    tracker = tracker_with(fake, notices, monkeypatch)
    tracker.start(run_info(tmp_path, resume_id="fake"))
    assert tracker._thread is None, "the first step must not wait for an import"
    tracker.log(10, {"train/loss": 2.0})
    tracker.alert(20, "PRE_COLLAPSE")
    tracker.log(20, {"train/loss": 1.0})
    assert fake.runs == [], "training must not wait for the start"
    fake.may_start.set()
    wait_until_up(tracker)
    tracker.table("decisions", ["step"], [[20]])
    tracker.finish({"status": "completed", "parameters": {"total": 3}, "skipped": None})
    (run,) = fake.runs
    assert run.rows == [
        (10, {"train/loss": 2.0}),
        (20, {"alerts": 1}),
        (20, {"train/loss": 1.0}),
        (20, {"decisions": ("table", ["step"], [[20]])}),
    ]
    assert run.summary == {"status": "completed", "parameters/total": 3}
    assert run.exit_codes == [0]
    assert notices == []
    (options,) = fake.inits
    assert (options["id"], options["mode"], options["dir"]) == ("fake", "offline", str(tmp_path))
    assert options["reinit"] == "create_new"
    assert options["settings"].console == "off"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("init", "W&B: start failed (SystemExit: 1); going on without it"),
        ("log", "W&B: log failed (ConnectionError: lost, key ***); going on without it"),
        ("finish", "W&B: finish failed (BrokenPipeError); going on without it"),
    ],
)
def test_a_failure_is_said_once_and_nothing_is_raised(
    tmp_path: Path,
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    said: str,
) -> None:
    tracker = tracker_with(FakeWandb(broken), notices, monkeypatch)
    tracker.start(run_info(tmp_path))
    for step in (1, 2):
        tracker.log(step, {"train/loss": 1.0})
        wait_until_up(tracker)
        tracker.alert(step, "a")
        tracker.table("t", [], [])
    tracker.finish({"status": "completed"})
    tracker.finish({"status": "completed"})
    assert notices == [said]


def test_without_the_library_the_run_goes_on(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = WandbTracker(WandbConfig(mode=WandbMode.offline), notices.append)
    tracker.start(run_info(tmp_path))
    tracker.finish({})
    assert notices == [
        "W&B: import failed (ModuleNotFoundError: import of wandb halted; None in sys.modules); "
        "going on without it"
    ]


def test_a_start_that_hangs_is_given_up_and_closed_when_it_comes_late(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronorun.tracking.wandb_tracker.GRACE_S", 0.0)
    fake = FakeWandb()
    fake.may_start.clear()
    tracker = tracker_with(fake, notices, monkeypatch, start_timeout_s=0.1)
    tracker.start(run_info(tmp_path))
    tracker.log(1, {"train/loss": 1.0})
    tracker.finish({"status": "completed"})
    assert notices == ["W&B: start failed (TimeoutError: not up after 0.1 s); going on without it"]
    fake.may_start.set()
    wait_until_up(tracker)
    (run,) = fake.runs
    assert (run.rows, run.exit_codes) == ([], [1])


def test_of_several_processes_the_first_begins_before_the_others_step(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    fake = FakeWandb()
    tracker = tracker_with(fake, notices, monkeypatch)
    tracker.start(run_info(tmp_path))
    wait_until_up(tracker)
    assert len(fake.runs) == 1


def test_finish_without_a_start_does_nothing(
    notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    tracker_with(fake, notices, monkeypatch).finish({"status": "failed"})
    assert (fake.inits, notices) == ([], [])


def test_a_run_that_logged_nothing_has_its_summary_at_w_and_b(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    tracker = tracker_with(fake, notices, monkeypatch)
    tracker.start(run_info(tmp_path))
    tracker.finish({"status": "failed"})
    (run,) = fake.runs
    assert (run.rows, run.summary, run.exit_codes) == ([], {"status": "failed"}, [1])


def test_long_ids_are_cut_and_stay_apart() -> None:
    one, two = (wandb_run_id("n" * 100 + tail) for tail in "ab")
    assert one != two
    assert len(one) == len(two) == 64
    assert wandb_run_id("short") == "short"


REAL_RUN = """
import random, signal, sys
from pathlib import Path
import numpy, torch
from chronorun.config.observing import WandbConfig, WandbMode
from chronorun.core.tracker import RunInfo
from chronorun.tracking.wandb_tracker import WandbTracker

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    words = numpy.random.get_state()[1].tolist()
    return random.getstate(), words, torch.get_rng_state().tolist(), handlers

folder, before = Path(sys.argv[1]), state()
tracker = WandbTracker(WandbConfig(mode=WandbMode.offline, start_timeout_s=60), print)
tracker.start(RunInfo("real", folder, 20, 0, 64, {"seed": 0}, {"0": 8}, None))
tracker.log(7, {"train/loss": 1.5, "moe/L0/num_experts": 8})
tracker.log(20, {"train/loss": 1.25})
tracker.finish({"status": "completed", "val_loss": 1.0})
assert state() == before, "random state or signal handlers changed"
"""


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a real offline run and all that was printed."""
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("wandb-run")
    environment = os.environ | {"WANDB_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-c", REAL_RUN, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def test_a_real_offline_run_is_silent_and_leaves_generators_and_signals_alone(
    real_run: tuple[Path, str],
) -> None:
    folder, printed = real_run
    assert printed == ""
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)


def test_the_history_of_a_real_offline_run_is_in_its_file(real_run: tuple[Path, str]) -> None:
    (run,) = real_run[0].glob("wandb/offline-run-*")
    record = leet.summary(run)
    assert (record["run_id"], record["state"], record["step"]) == ("real", "finished", 20)
    assert record["summary"]["train/loss"] == 1.25
    assert record["summary"]["val_loss"] == 1.0
    assert leet.inspect(run, "--json").count('"type":"history"') == 2
