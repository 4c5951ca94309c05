"""Weights & Biases, offline by default; its failures never stop the run."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chronorun.config.observing import WandbConfig, WandbMode
from chronorun.core.launch import find_place
from chronorun.core.text import one_line, printable
from chronorun.core.tracker import RunInfo
from chronorun.tracking.wandb_environment import PROJECT, give_home, left_open

LONGEST_ID = 64
UPLOAD_TIMEOUT_S = 30.0  # at the end of an online run; what is left stays on disk, to be synced
GRACE_S = 1.0  # wandb reports its own time-out a little late


def chosen_mode(config: WandbConfig) -> str:
    """Return the mode: the config's, else WANDB_MODE, else offline.

    The variable is read here because an explicit ``mode=`` would beat it inside wandb.
    """
    if config.mode is not WandbMode.auto:
        return str(config.mode.value)
    return os.environ.get("WANDB_MODE", "") or "offline"


def wandb_run_id(run_id: str) -> str:
    """Return the id of a run at W&B; a long one is cut and made unique by a hash of the whole."""
    if len(run_id) <= LONGEST_ID:
        return run_id
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:8]
    return f"{run_id[: LONGEST_ID - 9]}-{digest}"


def reason(error: BaseException) -> str:
    """Return an error's kind and first line, cut short and without the API key."""
    text = "".join(str(error).strip().splitlines()[:1])
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "***")
    words = one_line(text)
    return f"{type(error).__name__}: {words[:120]}" if words else type(error).__name__


class WandbTracker:
    """One W&B run per run. The first failure is reported once and ends the tracker, not the run.

    Nothing is imported before there is something to log: the import takes a second, and the first
    step does not wait for it. The W&B run starts on a thread of its own: what is logged meanwhile
    is kept and passed on when it is up. The import stays on the caller's thread, since two threads
    importing at once can meet half-made modules.
    """

    def __init__(self, config: WandbConfig, notice: Callable[[str], None]) -> None:
        self.config = config
        self.mode = chosen_mode(config)
        self._tell = notice
        self._info: RunInfo | None = None
        self._run: Any = None
        self._thread: threading.Thread | None = None
        self._deadline = 0.0
        self._closed = self.mode == "disabled"
        self._waiting: list[tuple[str, Callable[[Any], object]]] = []
        self._lock = threading.RLock()
        self._step = 0
        self._alerts = 0

    def start(self, info: RunInfo) -> None:
        """Remember what the W&B run will be called; it begins with the first thing to log.

        Of several processes the others wait long for the first at its start, and briefly at its
        steps: there it begins at once.
        """
        self._info = info
        if find_place().world > 1:
            self._ensure_begun()

    def _launch(self, info: RunInfo) -> None:
        """Begin the W&B run in the background."""
        try:
            give_home(info.run_dir / "wandb")
            import wandb
        except Exception as error:
            self._give_up("import", error)
            return
        self._deadline = time.monotonic() + self.config.start_timeout_s + GRACE_S
        self._thread = threading.Thread(
            target=self._begin, args=(wandb, info), daemon=True, name="wandb-start"
        )
        self._thread.start()

    def _begin(self, wandb: Any, info: RunInfo) -> None:
        try:
            run = self._init(wandb, info)
        except BaseException as error:  # SystemExit, too: it must not end a run from here
            self._give_up("start", error)
            return
        with self._lock:
            if not self._closed:
                self._run = run
                for what, call in self._waiting:
                    self._guard(what, call)
                self._waiting.clear()
                return
        self._quietly(lambda: run.finish(exit_code=1))

    def _init(self, wandb: Any, info: RunInfo) -> Any:
        # Said before init as well: the login's own message heeds only the process-wide setting.
        wandb.setup(settings=wandb.Settings(**left_open({"silent": True})))
        ours = {
            "project": PROJECT,
            "id": wandb_run_id(info.resume_id or info.run_id),
            "name": info.run_id,
            "dir": str(info.run_dir),
        }
        asked = {
            "project": self.config.project,
            "group": self.config.group,
            "job_type": self.config.job_type,
        }
        settings = {
            "silent": True,
            "console": "off",
            "save_code": False,
            "x_disable_stats": True,
            "finish_timeout": UPLOAD_TIMEOUT_S,
        }
        if info.resume_id and self.mode == "online":
            ours["resume"] = "allow"
        return wandb.init(
            **left_open(ours) | {name: value for name, value in asked.items() if value},
            config=printable(info.config),
            mode=self.mode,
            # Runs of a sweep share a process: none may log into the one before.
            reinit="create_new",
            settings=wandb.Settings(
                **left_open(settings), init_timeout=self.config.start_timeout_s
            ),
        )

    def _give_up(self, what: str, error: BaseException) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
            self._waiting.clear()
            run, self._run = self._run, None
        if first:
            self._tell(f"W&B: {what} failed ({reason(error)}); going on without it")
        if run is not None:
            self._quietly(lambda: run.finish(exit_code=1))

    def _quietly(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception:
            return

    def _guard(self, what: str, call: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._give_up(what, error)

    def _send(self, what: str, call: Callable[[Any], object]) -> None:
        with self._lock:
            if not self._ensure_begun():
                return
            if self._run is None:
                self._waiting.append((what, call))
            else:
                self._guard(what, call)

    def _ensure_begun(self) -> bool:
        """Begin the W&B run if need be; False where there is none to log to."""
        if not self._closed and self._thread is None and self._info is not None:
            self._launch(self._info)
        return not self._closed and self._thread is not None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the figures of a step."""
        self._step, row = step, dict(metrics)
        self._send("log", lambda run: run.log(row, step=step))

    def alert(self, step: int, message: str) -> None:
        """Log how many alerts there were since the start; their text is in the logs."""
        self._step, self._alerts = step, self._alerts + 1
        row = {"alerts": self._alerts}
        self._send("alert", lambda run: run.log(row, step=step))

    def notice(self, message: str) -> None:
        """Notices are for people at the screen."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Log a table."""
        step, names, data = self._step, list(columns), [list(row) for row in rows]

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=[*names], data=data)}, step=step)

        self._send("table", send)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the W&B run; a start still under way gets what is left of its time-out."""
        if not self._ensure_begun():
            return
        assert self._thread is not None
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._lock:
            run = self._run
        if run is None:
            self._give_up("start", TimeoutError(f"not up after {self.config.start_timeout_s:g} s"))
            return
        code = 0 if summary.get("status") == "completed" else 1
        try:
            run.summary.update(_flat(summary))
            run.finish(exit_code=code)
        except Exception as error:
            self._give_up("finish", error)
        self._closed, self._run = True, None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested plain values under ``/``-separated names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float | str):
            flat[f"{prefix}{key}"] = value
    return flat
