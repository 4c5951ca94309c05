"""The waves of a bench: jobs through Hydra's launchers, also past one that kills its worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chronorun.analysis.bench_results import FILE, read_result
from chronorun.cli import hydra_bridge
from chronorun.cli.bench_jobs import (
    BEGUN,
    ERROR_FILE,
    Gate,
    SweepStopped,
    bench_job,
    close_gate,
    keep_error,
)
from chronorun.cli.bench_outcome import collect
from chronorun.cli.bench_progress import watching
from chronorun.cli.terminal import warn
from chronorun.config.bench import OnError
from chronorun.config.overrides import unnamed
from chronorun.core.text import harmless
from chronorun.errors import ChronorunError, RunInterrupted, StorageError

if TYPE_CHECKING:
    from chronorun.cli.bench_sweep import Sweep
    from chronorun.cli.hydra_bridge import HydraCall
    from chronorun.config.compose import ConfigFiles


class Waves:
    """Runs what is not done yet of a sweep, wave by wave.

    A job that fails leaves a record. One whose worker process is killed does not, and takes along
    what ran beside it: every job that was cut off is then tried by itself, and the one that is
    killed again is recorded as failed.
    """

    def __init__(
        self, call: HydraCall, files: ConfigFiles, sweep: Sweep, folder: Path, on_error: OnError
    ) -> None:
        self.call, self.files, self.sweep, self.folder = call, files, sweep, folder
        self.on_error = on_error
        self._failed_before = self._failed()

    def run(self) -> BaseException | None:
        """Return what ended a wave early, if something did."""
        open_arms = {r.arm for r in collect(self.folder, self.sweep) if not r.has_metrics}
        end: BaseException | None = None
        self.call.arguments.multirun = True
        with watching(self.folder, len(self.sweep.keys())):
            for arms in self.sweep.waves:
                # Hydra composes every job, which takes a while, before the first one says it is
                # done: a wave without any to run is left out.
                if open_arms.isdisjoint(arms):
                    continue
                shared = (text.partition("=")[0].lstrip("+") for text in self.sweep.shared)
                self.call.overrides = [*self.sweep.overrides(arms), unnamed(shared)]
                try:
                    end = self._run_wave() or end
                except (RunInterrupted, SweepStopped) as stop:
                    return stop
        return end

    def _run_wave(self) -> Exception | None:
        """Launch a wave until all its jobs had their turn; return what keeps it from starting."""
        while (error := self._launch(Gate(never=self._failed_now()))) is not None:
            cut_off = self._cut_off()
            if not cut_off:
                warn(
                    f"bench: jobs were cut off by {keep_error(error, self.folder)}; see "
                    f"{self.folder / ERROR_FILE}; the same command runs what has no result"
                )
                return error
            names = ", ".join(cut_off)
            warn(
                harmless(
                    f"bench: a worker was killed ({type(error).__name__}), and cut off"
                    f" {names}; each is tried alone"
                )
            )
            for name in cut_off:
                again = self._launch(Gate(only=[name]))
                if again is not None and name in self._cut_off():
                    self._record_killed(self.folder / name, again)
        return None

    def _launch(self, gate: Gate) -> Exception | None:
        """Run the jobs that a gate lets through; return what cut them off, if something did."""
        for marker in self.folder.glob(f"*/{BEGUN}"):
            marker.unlink()
        with close_gate(self.folder, gate):
            try:
                hydra_bridge.run(self.call, bench_job, self.files)
            except ChronorunError:
                raise
            except Exception as error:
                # Not a job's own failure, which leaves a record: its worker was killed, say.
                return error
        return None

    def _cut_off(self) -> list[str]:
        """Return the folders of the jobs that began and did not end."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{BEGUN}"))

    def _record_killed(self, job_dir: Path, error: Exception) -> None:
        keep_error(error, job_dir)
        (job_dir / BEGUN).replace(job_dir / FILE)
        if self.on_error is OnError.stop:
            raise SweepStopped

    def _failed(self) -> dict[str, int]:
        """Return the jobs that failed, and when their records were written, in ns."""
        found = {}
        for path in self.folder.glob(f"*/{FILE}"):
            try:
                result = read_result(path.parent)
            except StorageError:
                continue
            if result is not None and result.status == "failed":
                found[path.parent.name] = path.stat().st_mtime_ns
        return found

    def _failed_now(self) -> list[str]:
        """Return the jobs that this command has tried in vain: once is enough."""
        before = self._failed_before
        return [name for name, when in self._failed().items() if before.get(name) != when]
