"""Errors travel between the processes of a sweep."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from chronorun import errors
from chronorun.errors import ChronorunError, RunInterrupted

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ChronorunError)
]


def make(kind: type[ChronorunError]) -> ChronorunError:
    text = "run: seed=1, expected 2; try again"
    return RunInterrupted(text, 15) if kind is RunInterrupted else kind(text)


def test_every_kind_is_covered() -> None:
    assert {"UserError", "StorageError", "RunInterrupted"} <= {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[ChronorunError], protocol: int) -> None:
    error = make(kind)
    for read in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(read) is kind
        assert (str(read), read.args) == (str(error), error.args)
        assert (read.exit_code, vars(read)) == (error.exit_code, vars(error))


@pytest.mark.parametrize(("signal_number", "exit_code"), [(2, 130), (15, 143)])
def test_an_interrupt_keeps_its_exit_code(signal_number: int, exit_code: int) -> None:
    read = pickle.loads(pickle.dumps(RunInterrupted("stopped", signal_number)))
    assert (read.signal_number, read.exit_code) == (signal_number, exit_code)


def test_what_was_noted_on_an_error_survives_pickling() -> None:
    for kind in KINDS:
        error = make(kind)
        error.add_note("job 3 of the sweep")
        assert pickle.loads(pickle.dumps(error)).__notes__ == ["job 3 of the sweep"]
