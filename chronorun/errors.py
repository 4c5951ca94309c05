"""The errors a person can meet, each with the exit code the command line returns for it.

A message is one line: ``<what failed>: <field>=<got>, expected <rule>; <next step>``.
"""

from __future__ import annotations

from typing import Any


class ChronorunError(Exception):
    """Base of every error that is reported in one line, without a traceback."""

    exit_code = 1


class UserError(ChronorunError, ValueError):
    """A mistake in what the user asked for: a key, a value, a file. Exit code 2."""

    exit_code = 2


class StorageError(ChronorunError):
    """A checkpoint, log or other file could not be written, read or trusted. Exit code 3."""

    exit_code = 3


class NonFiniteError(ChronorunError):
    """A loss, gradient or logit was NaN or infinite; nothing was updated. Exit code 4."""

    exit_code = 4


class RanksDisagreeError(ChronorunError):
    """Processes of one run hold different states or decisions. Exit code 5."""

    exit_code = 5


class ProcessLostError(ChronorunError):
    """Another process of the run ended or did not answer in time. Exit code 5."""

    exit_code = 5


class RunInterrupted(ChronorunError):
    """The run was asked to stop and saved itself first. Exit code 130 (Ctrl-C) or 143 (SIGTERM)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[RunInterrupted], tuple[str, int], dict[str, Any]]:
        """Pickle both arguments and notes: launchers of sweeps send exceptions across processes."""
        return type(self), (str(self), self.signal_number), vars(self)
