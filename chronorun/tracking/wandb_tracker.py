"""Weights & Biases, offline unless asked; whatever it does, the run goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chronorun.config.observing import WandbConfig, WandbMode
from chronorun.tracking.protocol import RunInfo


def chosen_mode(config: WandbConfig) -> str:
    """Return the mode: the config's, else WANDB_MODE, else offline.

    The variable is read here because an explicit ``mode=`` would beat it inside wandb.
    """
    if config.mode is not WandbMode.auto:
        return str(config.mode.value)
    return os.environ.get("WANDB_MODE", "") or "offline"


class WandbTracker:
    """One W&B run per run. The first failure is said once and ends the tracker, not the run.

    wandb is imported and started on a thread of its own: training does not wait for it. What is
    logged meanwhile is kept and passed on when it is ready.
    """

    def __init__(self, config: WandbConfig, notice: Callable[[str], None]) -> None:
        self.config = config
        self.notice_line = notice
        self.mode = chosen_mode(config)
        self._run: Any = None
        self._failed = self.mode == "disabled"
        self._ready = threading.Event()
        self._queue: list[Callable[[Any], Any]] = []
        self._lock = threading.Lock()

    def start(self, info: RunInfo) -> None:
        """Begin the W&B run in the background."""
        if self._failed:
            return
        threading.Thread(target=self._begin, args=(info,), daemon=True, name="wandb").start()

    def _begin(self, info: RunInfo) -> None:
        try:
            import wandb

            (info.run_dir / "wandb").mkdir(parents=True, exist_ok=True)
            run = wandb.init(
                project=self.config.project,
                group=self.config.group,
                job_type=self.config.job_type,
                id=info.run_id[:64],
                name=info.run_id,
                dir=str(info.run_dir),
                config=info.config,
                mode=self.mode,  # type: ignore[arg-type]
                resume="allow" if info.resume_id and self.mode == "online" else None,
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    init_timeout=max(1.0, self.config.start_timeout_s),
                    x_disable_stats=True,
                ),
            )
        except BaseException as error:
            self._give_up("start", error)
            return
        with self._lock:
            self._run = run
            waiting, self._queue = self._queue, []
            for call in waiting:
                self._guard("log", call)
        self._ready.set()

    def _give_up(self, what: str, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self.notice_line(f"W&B: {what} failed ({type(error).__name__}); going on without it")
        self._ready.set()

    def _guard(self, what: str, call: Callable[[Any], Any]) -> None:
        if self._failed:
            return
        try:
            call(self._run)
        except Exception as error:
            self._give_up(what, error)

    def _send(self, what: str, call: Callable[[Any], Any]) -> None:
        if self._failed:
            return
        with self._lock:
            if self._run is None:
                self._queue.append(call)
            else:
                self._guard(what, call)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the figures of a step."""
        row = dict(metrics)
        self._send("log", lambda run: run.log(row, step=step))

    def alert(self, step: int, message: str) -> None:
        """Count alerts as a metric; their text is in the logs."""
        self._send("log", lambda run: run.log({"alerts": 1}, step=step))

    def notice(self, message: str) -> None:
        """Notices are for people at the screen."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Log a table."""

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=[list(r) for r in rows])})

        self._send("table", send)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the W&B run; waits no longer than the start may take."""
        if self._failed:
            return
        if not self._ready.wait(self.config.start_timeout_s):
            self._give_up("start", TimeoutError())
            return
        plain = {k: v for k, v in summary.items() if isinstance(v, int | float | str)}

        def close(run: Any) -> None:
            run.summary.update(plain)
            run.finish(exit_code=0 if summary.get("status") == "completed" else 1)

        self._guard("finish", close)
