"""Call Hydra's command line; the only module that uses its private parts.

``hydra.main`` refuses overrides on both sides of a flag and prints its own tracebacks. Its parser
and runner, called directly, accept any order and pass a task's exception on.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.config.bench import BenchRunConfig
from chronorun.config.compose import Composition, register
from chronorun.config.explain import readable_error
from chronorun.config.paths import conf_dir
from chronorun.config.roots import ConfigFiles, primary, with_our_groups
from chronorun.config.run import RunConfig
from chronorun.config.suggest import SEE_HELP, next_step
from chronorun.errors import RunInterrupted, StorageError, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Task = Callable[["DictConfig"], Any]

INFO_PAGES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass
class HydraCall:
    """A parsed command line: Hydra's flags and the overrides, in the order they were given."""

    arguments: argparse.Namespace
    parser: argparse.ArgumentParser
    overrides: list[str] = field(default_factory=list)

    @property
    def shows_only(self) -> bool:
        """Whether a config or an info page is shown, rather than jobs run."""
        a = self.arguments
        return bool(a.cfg or a.info or a.hydra_help or a.shell_completion)

    @property
    def multirun(self) -> bool:
        """Whether this is a sweep (``--multirun``, or ``hydra.mode=MULTIRUN``)."""
        return bool(self.arguments.multirun) or "hydra.mode=MULTIRUN" in self.overrides

    def files(self, name: str) -> ConfigFiles:
        """Return the config files to compose; ``name`` is the root without ``--config-name``."""
        a = self.arguments
        folder = _folder("--config-path", a.config_path) if a.config_path else conf_dir()
        extra = _folder("--config-dir", a.config_dir) if a.config_dir else None
        schema = BenchRunConfig if name == "bench" else RunConfig
        root = (a.config_name or name).removesuffix(".yaml")
        return with_our_groups(ConfigFiles(folder, extra, root, schema))


def _folder(flag: str, text: str) -> Path:
    folder = Path(text).absolute()
    if not folder.is_dir():
        raise UserError(f"command line: {flag}={text}, expected a folder; correct the path")
    return folder


def parse(arguments: Sequence[str]) -> HydraCall:
    """Parse the arguments after the command's name: flags and overrides in any order.

    Raises UserError for an unknown flag, a flag's wrong value, and flags that exclude each other.
    """
    from hydra import version
    from hydra._internal.utils import get_args_parser

    version.setbase("1.3")
    parser = get_args_parser()
    flags = list(parser._option_string_actions)

    def refuse(message: str) -> Any:
        raise UserError(f"command line: {message}; {_flag_advice(message, flags)}")

    parser.error = refuse  # type: ignore[method-assign]
    namespace = parser.parse_intermixed_args(_with_info_page(arguments))
    _refuse_contradictions(namespace)
    return HydraCall(namespace, parser, list(namespace.overrides))


def _flag_advice(message: str, flags: Sequence[str]) -> str:
    wrong = message.rpartition(" ")[2] if message.startswith("unrecognized") else ""
    return next_step(wrong.partition("=")[0], flags, SEE_HELP)


def _with_info_page(arguments: Sequence[str]) -> list[str]:
    """Give a bare ``--info`` its page: argparse would take the next override as the page."""
    words = list(arguments)
    for place, word in enumerate(words):
        following = words[place + 1 : place + 2]
        if word in ("--info", "-i") and following and following[0] not in INFO_PAGES:
            words[place] = "--info=all"
    return words


def _refuse_contradictions(a: argparse.Namespace) -> None:
    chosen = {
        "--run": a.run,
        "--multirun": a.multirun,
        "--cfg": a.cfg,
        "--info": a.info,
        "--shell-completion": a.shell_completion,
    }
    given = [flag for flag, value in chosen.items() if value]
    if len(given) > 1:
        raise UserError(f"command line: {' and '.join(given)} given, expected one; drop the others")
    if (a.resolve or a.package) and not a.cfg:
        raise UserError("command line: --resolve or --package given, expected --cfg; add --cfg job")
    if a.resolve and a.cfg == "hydra":
        # Hydra resolves its node without the keys that it refers to.
        raise UserError("command line: --cfg hydra --resolve, expected job or all; use --cfg all")


def run(
    call: HydraCall, task: Task, files: ConfigFiles, checked: Composition | None = None
) -> None:
    """Run the task through Hydra, once per job; ``checked`` is the composition of the first.

    A failing single run raises its exception. In a sweep every job runs, then the first exception
    is raised; an interruption stops a sweep at once.
    """
    from hydra._internal.utils import _run_hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register()
    call.arguments.overrides = list(call.overrides)
    call.arguments.config_path = None
    call.arguments.config_name = primary(files, call.overrides)
    call.arguments.config_dir = None if files.extra is None else str(files.extra)
    try:
        with _exceptions_as_raised(), _logging_left_as_found(), _mode_known(checked):
            _run_hydra(
                args=call.arguments,
                args_parser=call.parser,
                task_function=Job(task),
                config_path=str(files.folder),
                config_name=call.arguments.config_name,
            )
    except StopSweep as stop:
        raise RunInterrupted(*stop.args) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise readable_error(error, call.overrides, files.with_defaults()) from error


def rerun(call: HydraCall, task: Task) -> None:
    """Run the task with a configuration Hydra pickled (``--experimental-rerun FILE``)."""
    from hydra.main import _get_rerun_conf

    file = Path(call.arguments.experimental_rerun)
    if not file.is_file():
        raise UserError(f"command line: --experimental-rerun={file}, expected a file; correct it")
    if call.overrides:
        raise UserError(
            f"command line: {call.overrides[0]} given, expected no overrides with "
            f"--experimental-rerun; drop one of the two"
        )
    register()
    with _logging_left_as_found():
        try:
            with warnings.catch_warnings(action="ignore"):
                composed = _get_rerun_conf(str(file), [])
        except Exception as error:
            raise StorageError(
                f"rerun: {file} is not a configuration pickled by Hydra ({type(error).__name__}); "
                f"name a run's config.pickle"
            ) from error
        task(composed)


class StopSweep(BaseException):
    """Carries an interruption past Hydra, which would otherwise go on with the next job."""


class Job:
    """The task as Hydra calls it, in this or a worker process."""

    def __init__(self, task: Task) -> None:
        self.task = task
        # Hydra names the job after the module of what it calls.
        self.__module__ = task.__module__

    def __reduce__(self) -> tuple[Callable[[Task], Job], tuple[Task]]:
        return _job_in_worker, (self.task,)

    def __call__(self, composed: DictConfig) -> Any:
        """Run one job, then close its log file, which Hydra would leave open."""
        if in_sweep():
            # It names one run, but a sweep has several.
            os.environ.pop("WANDB_RUN_ID", None)
        try:
            return self.task(composed)
        except RunInterrupted as stop:
            if not in_sweep():
                raise
            raise StopSweep(str(stop), stop.exit_code - 128) from stop
        finally:
            _close_handlers(logging.FileHandler, keep=())


def _job_in_worker(task: Task) -> Job:
    register()
    return Job(task)


def in_sweep() -> bool:
    """Return whether the job that runs now belongs to a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


@contextmanager
def _exceptions_as_raised() -> Iterator[None]:
    """Keep Hydra from reporting a job's exception in its own way, and from exiting."""
    from hydra.core.utils import JobReturn, JobStatus

    def return_value(self: JobReturn) -> Any:
        if self.status is JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    original = vars(JobReturn)["return_value"]
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    quiet = property(return_value, original.fset)
    JobReturn.return_value = quiet  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        JobReturn.return_value = original  # type: ignore[method-assign]
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextmanager
def _mode_known(checked: Composition | None) -> Iterator[None]:
    """Keep Hydra from composing everything (0.2 s) only to read ``hydra.mode``."""
    from hydra._internal.hydra import Hydra

    original = Hydra.get_mode
    if checked is not None:
        mode = checked.hydra.hydra.mode
        Hydra.get_mode = lambda *_, **__: mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = original  # type: ignore[method-assign]


@contextmanager
def _logging_left_as_found() -> Iterator[None]:
    """Undo the changes that Hydra makes to logging."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        _close_handlers(logging.Handler, keep=handlers)
        for handler in handlers:
            if handler not in root.handlers:
                root.addHandler(handler)
        root.setLevel(level)


def _close_handlers(kind: type[logging.Handler], keep: Sequence[logging.Handler]) -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, kind) and handler not in keep:
            root.removeHandler(handler)
            handler.close()
