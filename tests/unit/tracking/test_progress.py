from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from tracker_fakes import run_info, screen

from chronorun.config.observing import TrackingConfig
from chronorun.core.screen import Screen
from chronorun.tracking.progress import LiveProgress, PlainProgress, progress_tracker

METRICS = {"train/loss": 2.0, "tokens_per_second": 1500.0}
STEERED = METRICS | {
    "val/loss": 2.25,
    "moe/L0/num_experts": 8,
    "moe/L0/dead_expert_count": 1,
    "moe/L0/pressure": 0.42,
    "moe/L0/lens_scale": 0.07,
}


def ticking(*seconds: float) -> Callable[[], float]:
    times = iter(seconds)
    return lambda: next(times)


def test_plain_output_is_one_line_per_logged_step() -> None:
    console, text = screen()
    results, result_text = screen()
    tracker = PlainProgress(console, results=results, clock=ticking(0, 0, 10, 20))
    tracker.notice("resuming fake after step 20")
    tracker.start(run_info(Path("outputs/fake"), start_step=20))
    tracker.log(30, METRICS)
    tracker.alert(40, "PRE_COLLAPSE: Layer 0")
    tracker.log(40, STEERED)
    tracker.finish({"status": "completed"})
    assert text.getvalue().splitlines() == [
        "resuming fake after step 20",
        "run fake: outputs/fake",
        "step 30/100  loss 2.000  1.5k tok/s  eta 1:10",
        "step 40: PRE_COLLAPSE: Layer 0",
        "step 40/100 loss 2.000 val 2.250 1.5k tok/s experts 7/8 pressure 0.42 lens 0.07",
    ]
    assert "status" in result_text.getvalue()


def test_without_progress_only_notices_alerts_and_the_summary_remain() -> None:
    console, text = screen(terminal=True)
    tracker = progress_tracker(TrackingConfig(progress=False), console)
    tracker.start(run_info(Path("outputs/fake")))
    tracker.log(10, METRICS)
    tracker.alert(10, "COLLAPSE_CONFIRMED")
    assert text.getvalue().splitlines() == [
        "run fake: outputs/fake",
        "step 10: COLLAPSE_CONFIRMED",
    ]


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveProgress), (False, PlainProgress)])
def test_the_bar_is_for_terminals(terminal: bool, kind: type) -> None:
    console, _ = screen(terminal=terminal)
    assert type(progress_tracker(TrackingConfig(), console)) is kind


def drawn(tracker: LiveProgress, console: Screen) -> list[str]:
    with console.capture() as capture:
        console.print(tracker)
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_the_bar_is_one_line_at_any_width(width: int) -> None:
    console, _ = screen(terminal=True, width=width)
    tracker = LiveProgress(console, clock=lambda: 0.0)
    tracker._info = run_info(Path("outputs/fake"), max_steps=100_000)
    for metrics in (METRICS, STEERED):
        tracker.log(50_000, metrics)
        (line,) = drawn(tracker, console)
        assert cell_len(line) < width


def test_the_bar_grows_into_the_room_the_figures_leave() -> None:
    console, _ = screen(terminal=True)
    tracker = LiveProgress(console, clock=ticking(0, 10))
    tracker._info = run_info(Path("outputs/fake"))
    tracker.log(50, METRICS)
    (line,) = drawn(tracker, console)
    assert re.sub("[━─]+", "BAR", line) == "BAR 50/100  loss 2.000  1.5k tok/s  eta 0:10"
    assert line.count("━") == line.count("─") == 15


def test_alerts_above_the_bar_keep_to_one_line() -> None:
    console, text = screen(terminal=True)
    tracker = LiveProgress(console)
    tracker.alert(20, "PRE_COLLAPSE: " + "x" * 200)
    (line,) = text.getvalue().splitlines()
    assert cell_len(line) == 80
    assert line.startswith("step 20: PRE_COLLAPSE: xxx")
    assert line.endswith("…")


@pytest.mark.parametrize("terminal", [True, False])
def test_markup_and_control_characters_are_shown_not_obeyed(terminal: bool) -> None:
    console, text = screen(terminal=terminal)
    tracker = progress_tracker(TrackingConfig(), console)
    tracker.alert(1, "[red]x[/red] [/] \x1b[2J\x07 y\nz")
    tracker.notice("[link=file:///]n\x9b1m")
    assert text.getvalue().splitlines() == [
        "step 1: [red]x[/red] [/] \\x1b[2J\\x07 y z",
        "[link=file:///]n\\x9b1m",
    ]


def test_a_live_run_ends_with_the_bar_gone_and_the_summary_shown() -> None:
    console, text = screen(terminal=True)
    results, result_text = screen()
    tracker = LiveProgress(console, results=results)
    tracker.start(run_info(Path("outputs/fake")))
    tracker.log(50, STEERED)
    tracker.finish({"status": "completed", "population": {"0": 9, "1": 8}})
    assert text.getvalue().endswith("\x1b[2K")
    assert "L0 8->9  L1 8" in result_text.getvalue()


def test_a_closed_pipe_silences_and_does_not_end_the_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8", buffering=1) as pipe:
        tracker = PlainProgress(Screen(file=pipe), results=screen()[0])
        tracker.start(run_info(Path("outputs/fake")))
        tracker.log(10, METRICS)
        tracker.finish({})
