"""``chronorun inspect``: what happened in a run, and why."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from chronorun.analysis.inspect import output
from chronorun.analysis.inspect.any_log import first_kind, refuse_why, scan_log
from chronorun.analysis.inspect.filters import Filters
from chronorun.analysis.inspect.follow import follow, followable
from chronorun.analysis.inspect.screen import headline, render_log, render_run, render_sweep
from chronorun.analysis.inspect.sweep import scan_sweep
from chronorun.analysis.inspect.timeline import action_record, receipt, what, who, why
from chronorun.analysis.inspect.view import scan_decisions, scan_run
from chronorun.analysis.reading.records import Decision
from chronorun.analysis.reading.run import Run
from chronorun.core.run_files import DECISIONS, has_logs, log_file
from chronorun.core.screen import Screen
from chronorun.core.terminal import warn
from chronorun.core.words import shown
from chronorun.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """The options of the command."""

    filters: Filters
    why: str | None
    as_json: bool
    as_csv: bool
    plot: str | None
    html: str | None
    follow: bool


def inspect_command(path: str, wanted: Wanted) -> None:
    """Show a run, a log or a sweep, or write its pictures."""
    if wanted.as_json and wanted.as_csv:
        raise UserError("inspect: --json and --csv, expected one of the two; leave one out")
    place = Path(path)
    if not place.exists():
        raise UserError(f"inspect: {path} is not there, expected a log or a folder; name another")
    if wanted.plot is not None or wanted.html is not None:
        _write(place, wanted.plot, wanted.html)
    elif wanted.follow:
        _follow(place, wanted)
    elif place.is_dir() and not has_logs(place):
        _show_sweep(place, wanted)
    elif place.is_dir() or place.name == log_file(DECISIONS):
        _show_run(place, wanted)
    elif first_kind(place) == DECISIONS:
        _show_run(place, wanted, alone=True)
    else:
        _show_log(place, wanted)


def _screen() -> Screen:
    screen = Screen(highlight=False, markup=False, emoji=False)
    if screen.is_terminal or "COLUMNS" in os.environ:
        return screen
    return Screen(highlight=False, markup=False, emoji=False, width=80)


def _is_ascii(screen: Screen) -> bool:
    return not screen.encoding.lower().startswith("utf")


def _print(screen: Screen, shown_parts: RenderableType) -> None:
    screen.print(shown_parts, crop=False)


def _show_run(place: Path, wanted: Wanted, alone: bool = False) -> None:
    rows = output.ActionRows(wanted.as_csv) if wanted.as_json or wanted.as_csv else None
    sink = None if rows is None else rows.add
    if alone:
        view = scan_decisions(place, wanted.filters, wanted.why, sink)
    else:
        run = Run(place if place.is_dir() else place.parent)
        view = scan_run(run, wanted.filters, wanted.why, sink)
    if rows is None:
        screen = _screen()
        _print(screen, render_run(view, wanted.filters, screen.width, _is_ascii(screen)))
    elif wanted.as_json:
        output.print_with_actions(output.run_record(view), rows, sys.stdout)
    else:
        sys.stdout.write(output.csv_line(output.CSV_COLUMNS))
        rows.copy_to(sys.stdout)


def _show_sweep(place: Path, wanted: Wanted) -> None:
    if wanted.why is not None:
        raise refuse_why(f"{place} holds several runs")
    if not wanted.as_json and not wanted.as_csv:
        screen = _screen()
        _print(screen, render_sweep(scan_sweep(place, wanted.filters), screen.width))
        return
    rows = output.ActionRows(wanted.as_csv)
    view = scan_sweep(place, wanted.filters, lambda run, d, judged: rows.add(d, judged, run))
    if wanted.as_json:
        output.print_with_actions(output.sweep_record(view), rows, sys.stdout)
    else:
        sys.stdout.write(output.csv_line(output.CSV_COLUMNS))
        rows.copy_to(sys.stdout)


def _show_log(place: Path, wanted: Wanted) -> None:
    if wanted.why is not None:
        raise refuse_why(f"{place} is no log of decisions")
    if wanted.as_csv:
        rows = output.ActionRows(as_csv=True)
        scan_log(place, wanted.filters, rows.add_figure)
        sys.stdout.write(output.csv_line(output.FIGURE_COLUMNS))
        rows.copy_to(sys.stdout)
        return
    view = scan_log(place, wanted.filters)
    if wanted.filters.actions and view.kind != "lifecycle_evaluations":
        warn(f"inspect: --action says nothing about {view.kind}, and was ignored")
    if wanted.as_json:
        sys.stdout.write(output.to_json(output.log_record(view)) + "\n")
        return
    screen = _screen()
    _print(screen, render_log(view, screen.width, _is_ascii(screen)))


def _write(place: Path, plot: str | None, html: str | None) -> None:
    folder = place.parent if place.name == log_file(DECISIONS) else place
    run = Run.open(folder)
    if plot is not None:
        from chronorun.analysis.report.plots import write_plot

        write_plot(run, Path(plot))
    if html is not None:
        from chronorun.analysis.report.page import write_report

        write_report(run, Path(html))
    for name in filter(None, (plot, html)):
        print(f"wrote {shown(name, 400)}")
    for line in run.notices.lines:
        warn(line)


def _follow(place: Path, wanted: Wanted) -> None:
    if wanted.why is not None:
        raise UserError("inspect: --follow and --why, expected one of the two; leave one out")
    run = followable(place)
    screen = _screen()
    if wanted.as_csv:
        sys.stdout.write(output.csv_line(output.CSV_COLUMNS))
    for news in follow(run):
        if isinstance(news, Decision):
            if wanted.filters.takes(news):
                _print_action(screen, news, wanted)
        elif not (wanted.as_json or wanted.as_csv) and wanted.filters.takes_step(news.step):
            loss = "" if news.val_loss is None else f"{news.val_loss:.4f}"
            _print(screen, Text(f"step {news.step}: validation loss {loss}", style="dim"))
        sys.stdout.flush()
    if not (wanted.as_json or wanted.as_csv):
        view = scan_run(run, wanted.filters)
        screen.print()
        for part in headline(view, _is_ascii(screen)):
            _print(screen, part)


def _print_action(screen: Screen, decision: Decision, wanted: Wanted) -> None:
    record = {"run": ""} | action_record(decision)
    if wanted.as_json:
        sys.stdout.write(output.to_json(record) + "\n")
    elif wanted.as_csv:
        sys.stdout.write(output.csv_line([record[name] for name in output.CSV_COLUMNS]))
    else:
        did = receipt(decision)
        line = f"step {decision.step}: {what(decision)} {who(decision)}: {why(decision)}"
        _print(screen, Text(f"{line}{'; ' if did else ''}{did}", style="bold"))
