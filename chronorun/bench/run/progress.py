"""How far a sweep is: seen from its folder, so that any launcher may run the jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chronorun.bench.evidence.results import FILE, JobResult, read_result
from chronorun.bench.report.figures import scenario_name
from chronorun.bench.run.job import finished
from chronorun.core.screen import progress_screen
from chronorun.core.terminal import tell
from chronorun.core.text import harmless
from chronorun.errors import StorageError

EVERY_S = 0.5


@contextmanager
def watching(folder: Path, total: int) -> Iterator[None]:
    """Show each job as it ends: a bar on a terminal, a line per job elsewhere (standard error)."""
    done = sum(finished(path.parent) is not None for path in folder.glob(f"*/{FILE}"))
    console = progress_screen()
    place = harmless(str(folder))
    console.print(f"bench {place}: {total} jobs, {done} done", markup=False, highlight=False)
    watch = _Watch(folder, total, done, console)
    thread = threading.Thread(target=watch.run, daemon=True, name="bench-progress")
    thread.start()
    try:
        yield
    finally:
        watch.stop.set()
        thread.join()


def describe(result: JobResult) -> str:
    """Return one line on a job that has ended."""
    name = scenario_name(result.scenario)
    what = " ".join(filter(None, [name, result.variant, result.arm, f"seed {result.seed}"]))
    loss, seconds = result.metrics.get("val_loss"), result.wall.get("seconds")
    if result.status == "completed" and loss is not None:
        took = "" if seconds is None else f" ({seconds:.0f} s)"
        return f"{what}: {loss:.4f}{took}"
    if result.status == "no_edit":
        return f"{what}: not trained, the lifecycle made no edit"
    return f"{what}: {result.status}: {result.reason}"


class _Watch:
    def __init__(self, folder: Path, total: int, done: int, console: Console) -> None:
        self.folder, self.total, self.done, self.console = folder, total, done, console
        # By folder, when its record was written: a job that failed before leaves a new one.
        self.seen = {p.parent.name: self._time(p) for p in folder.glob(f"*/{FILE}")}
        self.stop = threading.Event()

    @staticmethod
    def _time(path: Path) -> int:
        """Return when a record was written, in ns; 0 where it has gone: the job runs again."""
        try:
            return path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def run(self) -> None:
        """Look until told to stop, and once more then."""
        if not self.console.is_terminal:
            self._loop(self._print)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("jobs", total=self.total, completed=self.done)

            def show(result: JobResult) -> None:
                bar.console.print(self._line(result), markup=False, highlight=False)
                bar.update(task, completed=self.done)

            self._loop(show)

    def _loop(self, show: Callable[[JobResult], None]) -> None:
        while True:
            last = self.stop.wait(EVERY_S)
            for result in self._ended():
                self.done += 1
                show(result)
            if last:
                return

    def _ended(self) -> Iterator[JobResult]:
        for path in sorted(self.folder.glob(f"*/{FILE}"), key=self._time):
            name, when = path.parent.name, self._time(path)
            if self.seen.get(name) == when or not when:
                continue
            self.seen[name] = when
            try:
                result = read_result(path.parent)
            except StorageError:
                continue
            if result is not None:
                yield result

    def _print(self, result: JobResult) -> None:
        tell(self._line(result))

    def _line(self, result: JobResult) -> str:
        now = time.strftime("%H:%M:%S")
        return harmless(f"{now} {self.done}/{self.total} {describe(result)}")
