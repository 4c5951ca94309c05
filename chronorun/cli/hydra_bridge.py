"""The one module that touches Hydra's private parts.

``hydra.main`` refuses overrides on both sides of a flag and prints tracebacks of its own. Its parser
and runner, called here, accept every order, and a task's exception comes back as it was raised.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.config.compose import listify_files, register
from chronorun.config.paths import conf_dir
from chronorun.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Task = Callable[["DictConfig"], Any]


@dataclass
class HydraCall:
    """A parsed command line: Hydra's flags and the overrides, in the order they were given."""

    arguments: argparse.Namespace
    parser: argparse.ArgumentParser
    overrides: list[str] = field(default_factory=list)

    @property
    def wants_help(self) -> bool:
        """Whether our own help was asked for (``--hydra-help`` is Hydra's)."""
        return bool(self.arguments.help)

    @property
    def runs_jobs(self) -> bool:
        """Whether jobs run, rather than a config or an info page being shown."""
        a = self.arguments
        shows = a.cfg or a.info or a.hydra_help or a.shell_completion or a.help
        return not shows

    @property
    def multirun(self) -> bool:
        """Whether this is a sweep."""
        return bool(self.arguments.multirun)

    @property
    def extra_dir(self) -> Path | None:
        """A further folder of config groups (``--config-dir``)."""
        return Path(self.arguments.config_dir) if self.arguments.config_dir else None


class _Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print usage and exit."""

    def error(self, message: str) -> Any:
        raise UserError(f"command line: {message}; see chronorun train --help")


def parse(arguments: Sequence[str]) -> HydraCall:
    """Parse the arguments after the command's name: flags and overrides in any order."""
    from hydra import version
    from hydra._internal.utils import get_args_parser

    version.setbase("1.3")
    parser = get_args_parser()
    parser.__class__ = _Parser
    namespace = parser.parse_intermixed_args(list(arguments))
    namespace.overrides = [listify_files(text) for text in namespace.overrides]
    return HydraCall(namespace, parser, namespace.overrides)


def run(call: HydraCall, task: Task, config_name: str = "train") -> list[Any]:
    """Run the task through Hydra, once per job, and return what the jobs returned.

    A failing single run raises its exception. In a sweep every job runs; the first exception is
    raised after the last job.
    """
    from hydra._internal.utils import _run_hydra

    results: list[Any] = []
    failures: list[BaseException] = []

    def guarded(composed: DictConfig) -> None:
        before = list(logging.getLogger().handlers)
        try:
            results.append(task(composed))
        except Exception as error:
            failures.append(error)
        finally:
            # Hydra configures logging for each job and leaves the handlers behind.
            for handler in set(logging.getLogger().handlers) - set(before):
                logging.getLogger().removeHandler(handler)

    # Hydra names the job after the task's module.
    guarded.__module__ = "chronorun"
    register()
    call.arguments.overrides = call.overrides
    try:
        _run_hydra(
            args=call.arguments,
            args_parser=call.parser,
            task_function=guarded,
            config_path=str(conf_dir()),
            config_name=config_name,
        )
    except ValueError as error:
        raise UserError(f"command line: {error}") from error
    if failures:
        raise failures[0]
    return results
