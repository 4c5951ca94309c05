"""The waves of a bench: jobs through Hydra's launchers, also past one that kills its worker."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from chronorun.bench.evidence.results import FILE, read_result
from chronorun.bench.run.job import (
    BEGUN,
    ERROR_FILE,
    Gate,
    SweepStopped,
    bench_job,
    close_gate,
    finished,
    keep_error,
)
from chronorun.bench.run.outcome import collect
from chronorun.bench.run.progress import watching
from chronorun.config import hydra_bridge
from chronorun.config.bench import OnError
from chronorun.config.overrides import unnamed
from chronorun.core.files import write_atomically
from chronorun.core.terminal import warn
from chronorun.core.text import harmless
from chronorun.errors import ChronorunError, RunInterrupted, StorageError

if TYPE_CHECKING:
    from chronorun.bench.run.plan import Sweep
    from chronorun.config.hydra_bridge import HydraCall
    from chronorun.config.roots import ConfigFiles


class Waves:
    """Runs what is not done yet of a sweep, wave by wave.

    A job that fails leaves a record. One whose worker process is killed does not, and its pool
    ends with all that ran beside it: every job that was cut off is then tried by itself, and the
    one that is killed again is recorded as failed.
    """

    def __init__(
        self, call: HydraCall, files: ConfigFiles, sweep: Sweep, folder: Path, on_error: OnError
    ) -> None:
        self.call, self.files, self.sweep, self.folder = call, files, sweep, folder
        self.on_error = on_error
        self._ended_before = self._ended()

    def run(self) -> BaseException | None:
        """Return what ended a wave early, if something did."""
        open_arms = {r.arm for r in collect(self.folder, self.sweep) if not r.has_metrics}
        end: BaseException | None = None
        self.call.arguments.multirun = True
        with watching(self.folder, len(self.sweep.keys())):
            for arms in self.sweep.waves:
                # Hydra composes every job, which takes a while, before the first one says it is
                # done: a wave without any to run is left out.
                if open_arms.isdisjoint(arms) and not self.sweep.is_drawn:
                    continue
                shared = (text.partition("=")[0].lstrip("+") for text in self.sweep.shared)
                self.call.overrides = [*self.sweep.overrides(arms), unnamed(shared)]
                try:
                    end = self._run_wave() or end
                except (RunInterrupted, SweepStopped) as stop:
                    return stop
        return end

    def _run_wave(self) -> Exception | None:
        """Launch a wave, and again past each killed worker; return what ended it for good."""
        while (error := self._launch(Gate(never=self._ended_now()))) is not None:
            cut_off = self._cut_off()
            # Only a pool of processes takes all its jobs along: elsewhere they may still run.
            # A sweeper that draws its jobs would draw others.
            if not isinstance(error, BrokenExecutor) or not cut_off or self.sweep.is_drawn:
                return self._tell(error)
            names = ", ".join(cut_off)
            warn(harmless(f"bench: a worker was killed; each of its jobs is tried alone: {names}"))
            for name, record in cut_off.items():
                again = self._launch(Gate(only=[name]))
                if again is not None and not isinstance(again, BrokenExecutor):
                    return self._tell(again)
                if finished(self.folder / name) is None and name not in self._ended_now():
                    self._record_killed(self.folder / name, record, again or error)
        return None

    def _tell(self, error: Exception) -> Exception:
        warn(
            f"bench: jobs were cut off by {keep_error(error, self.folder)}; see "
            f"{self.folder / ERROR_FILE}; the same command runs what has no result"
        )
        return error

    def _launch(self, gate: Gate) -> Exception | None:
        """Run the jobs that a gate lets through; return what cut them off, if something did."""
        for mark in self.folder.glob(f"*/{BEGUN}"):
            mark.unlink(missing_ok=True)
        with close_gate(self.folder, gate):
            try:
                hydra_bridge.run(self.call, bench_job, self.files)
            except ChronorunError:
                raise
            except Exception as error:
                # Not a job's own failure, which leaves a record: its worker was killed, say.
                return error
        return None

    def _cut_off(self) -> dict[str, bytes]:
        """Return the jobs that began and did not end, by folder, and the records they left."""
        marks = sorted(self.folder.glob(f"*/{BEGUN}"))
        return {mark.parent.name: mark.read_bytes() for mark in marks}

    def _record_killed(self, job_dir: Path, record: bytes, error: Exception) -> None:
        keep_error(error, job_dir)
        write_atomically(job_dir / FILE, record)
        (job_dir / BEGUN).unlink(missing_ok=True)
        if self.on_error is OnError.stop:
            raise SweepStopped

    def _ended(self) -> dict[str, int]:
        """Return the jobs that failed or were skipped, and when that was recorded, in ns."""
        found = {}
        for path in self.folder.glob(f"*/{FILE}"):
            try:
                result = read_result(path.parent)
            except StorageError:
                continue
            if result is not None and not result.has_metrics:
                found[path.parent.name] = path.stat().st_mtime_ns
        return found

    def _ended_now(self) -> list[str]:
        """Return those that this command has tried in vain: once is enough."""
        before = self._ended_before
        return [name for name, when in self._ended().items() if before.get(name) != when]
