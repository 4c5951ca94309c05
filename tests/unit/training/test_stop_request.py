"""The first signal asks, the second ends; handlers come and go with the context."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from chronorun.training.stop_request import StopRequest

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_only_sets_its_number(number: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal_number is None
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", NUMBERS)
def test_the_second_signal_ends_the_process_at_once(number: int) -> None:
    code = f"""
import os
from chronorun.training.stop_request import StopRequest
with StopRequest():
    for n in range(2):
        os.kill(os.getpid(), {int(number)})
        print(n, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "0\n", "")


def test_handlers_go_even_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_goes_without() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def work() -> None:
        with StopRequest() as stop:
            found.extend([stop.signal_number, signal.getsignal(signal.SIGINT) is before])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None, True]


@pytest.mark.parametrize("number", NUMBERS)
def test_what_a_launch_gets_twice_is_one_request(number: int) -> None:
    before = {handled: signal.getsignal(handled) for handled in NUMBERS}
    with StopRequest(launched=True) as stop:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert stop.signal_number == number
    try:
        # Handed on when the run has stopped, while it is still writing.
        os.kill(os.getpid(), number)
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)


def test_a_process_that_was_told_by_another_takes_its_own_signal_for_the_same() -> None:
    before = {handled: signal.getsignal(handled) for handled in NUMBERS}
    try:
        with StopRequest(launched=True) as stop:
            stop.ask(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal_number == signal.SIGINT
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)


def test_a_launch_that_is_asked_again_later_ends_at_once() -> None:
    code = """
import os, time
from chronorun.training import stop_request as signals
signals.ONE_REQUEST_S = 0.01
with signals.StopRequest(launched=True):
    for n in range(2):
        os.kill(os.getpid(), 15)
        print(n, flush=True)
        time.sleep(0.02)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "0\n", "")


def test_a_launch_that_nobody_stopped_can_still_be_interrupted() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(launched=True):
        pass
    try:
        assert signal.getsignal(signal.SIGINT) is before
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
