"""``chronorun train``: one run, or a sweep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun import __version__
from chronorun.config.overrides import parse_overrides, unnamed
from chronorun.config.run import plain_name
from chronorun.core.launch import Place, find_place
from chronorun.core.run_files import HYDRA, REPORT, SUMMARY, TRAIN_LOG
from chronorun.core.terminal import warn
from chronorun.errors import NonFiniteError, RanksDisagreeError, RunInterrupted, UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from chronorun.config.compose import Composition
    from chronorun.config.hydra_bridge import HydraCall
    from chronorun.core.processes import Processes

# Ends that all processes of a run come to, after the same step.
AGREED_ENDS = (RunInterrupted, NonFiniteError, RanksDisagreeError)


def train_command(arguments: Sequence[str]) -> None:
    """Train as the arguments say; every mistake is found before a folder is made."""
    place = find_place()
    if not place.is_first and _only_shows(arguments):
        return
    if "--help" in arguments or "-h" in arguments:
        from chronorun.cli.help import train_help

        print(train_help())
        return
    if "--version" in arguments:
        print(f"chronorun {__version__}")
        return
    _run(arguments, place)


def _only_shows(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for a page, which only one process prints."""
    from chronorun.config import hydra_bridge

    if {"--help", "-h", "--version"} & set(arguments):
        return True
    call = hydra_bridge.parse(arguments)
    return bool(call.arguments.hydra_help or call.arguments.shell_completion or call.shows_only)


def _run(arguments: Sequence[str], place: Place) -> None:
    from chronorun.config import hydra_bridge
    from chronorun.config.compose import compose_checked

    call = hydra_bridge.parse(arguments)
    if place.world > 1:
        _refuse_sweep(call)
    if call.arguments.experimental_rerun is not None:
        hydra_bridge.rerun(call, rerun_job)
        return
    if call.arguments.hydra_help or call.arguments.shell_completion:
        hydra_bridge.run(call, train_job, call.files("train"))
        return
    given = parse_overrides(call.overrides)
    call.overrides = [str(override.input_line) for override in given]
    resumed = _take_over_resumed(call)
    files = call.files("train")
    composition = compose_checked(call.overrides, files, multirun=call.multirun)
    if call.shows_only:
        _check_package(call, composition)
        hydra_bridge.run(call, train_job, files)
        return
    _check_edits(composition)
    if place.launched and not call.multirun:
        _run_with_others(call, composition, resumed, place)
        return
    _run_here(call, composition, resumed, given)


def _run_with_others(
    call: HydraCall, composition: Composition, resumed: Path | None, place: Place
) -> None:
    """Train one run in the processes of a launch; the first makes the folder and tells the others.

    A launch may be of one process.
    """
    from chronorun.core.processes import connect
    from chronorun.training.stepping import check_batch

    check_batch(composition.config, place.world, resumed=_goes_on(resumed))
    # Before they meet, and in each: one that leaves afterwards is lost to the others.
    _check_place(call, composition, resumed)
    processes = connect(place)
    if processes.is_first:
        given = parse_overrides(call.overrides)
        _run_here(call, composition, resumed, given, processes)
    else:
        _train(composition.composed, Path(), processes)


def _run_here(
    call: HydraCall,
    composition: Composition,
    resumed: Path | None,
    given: Sequence[Override],
    processes: Processes | None = None,
) -> None:
    from hydra.core.hydra_config import HydraConfig

    from chronorun.config import hydra_bridge
    from chronorun.config.ignored import ignored_options

    files = call.files("train")

    folders: list[Path] = []

    def job(composed: DictConfig) -> float | None:
        # Where Hydra draws a run_id, it is another one than ours.
        folders.append(Path(str(HydraConfig.get().runtime.output_dir)))
        return train_job(composed, processes)

    for message in ignored_options(composition.config, {item.key_or_group for item in given}):
        warn(message)
    run_dir = _check_place(call, composition, resumed)
    if call.multirun:
        shared = (item.get_key_element() for item in given if not item.is_sweep_override())
        call.overrides.append(unnamed(shared))
    made = not run_dir.exists()
    try:
        # A sweep's launcher sends what it calls to other processes: a function of this module.
        task = train_job if call.multirun else job
        hydra_bridge.run(call, task, files, composition)
    except UserError:
        for folder in folders if made else ():
            _remove_unused(folder)
        raise


def _take_over_resumed(call: HydraCall) -> Path | None:
    """Put the overrides of a run to be continued before those given; return its folder."""
    from chronorun.config.resume import continuation

    a = call.arguments
    own_files = bool(a.config_dir or a.config_name or a.config_path)
    found = continuation(call.overrides, own_files=own_files)
    if found is None:
        return None
    if not call.multirun:
        call.overrides = found.overrides
        if found.from_config:
            a.config_dir, a.config_name = str(found.run_dir), "config"
        return found.run_dir
    if "resume=auto" not in call.overrides:
        raise UserError(
            "resume: a folder is named, expected resume=auto with --multirun; "
            "give the sweep's run_id=NAME and resume=auto"
        )
    return None


def _goes_on(run_dir: Path | None) -> bool:
    """Return whether there is a run to continue: ``resume=auto`` may also start one."""
    from chronorun.config.resume import has_checkpoints

    return run_dir is not None and has_checkpoints(run_dir)


def _refuse_sweep(call: HydraCall) -> None:
    if call.multirun or call.arguments.experimental_rerun is not None:
        raise UserError(
            "command line: --multirun or --experimental-rerun given, expected one run while "
            "several processes train it; drop the flag, or start the sweep without torchrun"
        )


def _check_edits(composition: Composition) -> None:
    from chronorun.training.edit_plan import decider

    # Only to see whether a run that is to be followed is there.
    decider(composition.config)


def _check_package(call: HydraCall, composition: Composition) -> None:
    from omegaconf import OmegaConf

    from chronorun.config.describe import flatten
    from chronorun.config.suggest import next_step

    package = call.arguments.package
    if package in (None, "_global_"):
        return
    if OmegaConf.select(composition.hydra, package) is None:
        known = flatten(OmegaConf.to_container(composition.composed))
        step = next_step(package, {*known, *map(str, composition.composed)}, "see --cfg job")
        raise UserError(f"command line: --package={package}, expected a key with a value; {step}")


def _check_place(call: HydraCall, composition: Composition, resumed: Path | None) -> Path:
    """Return the folder of the run (or sweep). Raises UserError when it is not to be had."""
    from chronorun.config.resume import check_same_mathematics

    config, hydra = composition.config, composition.hydra.hydra
    if not config.run_id:
        raise UserError(
            "configuration: run_id is empty, expected a name; drop run_id for a fresh one"
        )
    run_dir = Path(str(hydra.sweep.dir if call.multirun else hydra.run.dir))
    if resumed is not None:
        check_same_mathematics(resumed, composition.composed)
    elif config.resume is None and (run_dir.exists() or run_dir.is_symlink()):
        raise UserError(
            f"run folder: {run_dir} exists already, expected a new run_id; "
            f"add resume=auto to continue it, or choose another run_id"
        )
    if (
        not call.multirun
        and config.resume is not None
        and run_dir != (resumed or Path(config.output_dir) / config.run_id)
    ):
        raise UserError(
            f"resume: hydra.run.dir={run_dir}, expected the folder of the run that is continued; "
            f"drop hydra.run.dir"
        )
    return run_dir


def _remove_unused(run_dir: Path) -> None:
    """Give the run_id free again when a mistake showed before anything of a run was written."""
    import shutil

    found = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else {"?"}
    if found <= {HYDRA, TRAIN_LOG}:
        shutil.rmtree(run_dir, ignore_errors=True)


def train_job(composed: DictConfig, processes: Processes | None = None) -> float | None:
    """Train one job of Hydra's; return its validation loss, for sweepers that minimise it."""
    from hydra.core.hydra_config import HydraConfig

    from chronorun.config.hydra_bridge import in_sweep
    from chronorun.config.resume import check_same_mathematics, saved_run_id

    run_dir = _short(Path(str(HydraConfig.get().runtime.output_dir)))
    # Trackers tell runs apart by their id: a job of a sweep carries the sweep's name, too.
    name = f"{run_dir.parent.name}-{run_dir.name}" if in_sweep() else run_dir.name
    # A folder that the user's hydra.run.dir or hydra.sweep.subdir named may hold other characters.
    composed.run_id = plain_name(name)
    if composed.resume is not None:
        # Logs and trackers go on under the name they began with, wherever the folder is now.
        composed.run_id = saved_run_id(run_dir) or composed.run_id
    if not in_sweep():
        return _train(composed, run_dir, processes)
    try:
        check_same_mathematics(run_dir, composed)
        return _train(composed, run_dir)
    except RunInterrupted:
        raise
    except Exception as error:
        # The sweep goes on, and its end may be hours away.
        warn(f"job {run_dir} failed: {error}")
        raise


def rerun_job(composed: DictConfig) -> float | None:
    """Train with a pickled configuration again, in a folder of its own."""
    from chronorun.config.compose import new_run_id

    composed.run_id = new_run_id()
    return _train(composed, Path(str(composed.output_dir)) / composed.run_id)


def _train(composed: DictConfig, run_dir: Path, processes: Processes | None = None) -> float | None:
    if processes is None:
        return _train_as(composed, run_dir)
    with processes.ending_together(*AGREED_ENDS):
        # Each drew a run id of its own; that of the first counts.
        composed.run_id = processes.from_first(composed.run_id)
        run_dir = Path(processes.from_first(str(run_dir)))
        return _train_as(composed, run_dir, processes)


def _train_as(
    composed: DictConfig, run_dir: Path, processes: Processes | None = None
) -> float | None:
    """Train, and write the report; of several processes only the first writes."""
    from chronorun.config.compose import to_run_config
    from chronorun.core.processes import ALONE
    from chronorun.tracking import TrackerGroup, build_trackers
    from chronorun.training import run_training

    config = to_run_config(composed)
    writes = processes is None or processes.is_first
    trackers = build_trackers(config, run_dir) if writes else TrackerGroup([])
    try:
        summary: dict[str, Any] = run_training(
            config, composed, run_dir, trackers, processes or ALONE
        )
    finally:
        if writes:
            _write_report(run_dir)
    loss = summary.get("val_loss")
    return float(loss) if loss is not None else None


def _write_report(run_dir: Path) -> None:
    """Write ``report.html`` beside the logs of a run that has ended, however it ended."""
    if not (run_dir / SUMMARY).is_file():
        return
    try:
        from chronorun.analysis.reading.run import Run
        from chronorun.analysis.report.page import write_report

        write_report(Run.open(run_dir), run_dir / REPORT)
    except Exception as error:
        # The run is what counts: its logs are there, and `inspect --html` can try again.
        warn(f"{run_dir / 'report.html'} was not written: {error}")


def _short(path: Path) -> Path:
    """Return a path below the working folder in its relative form."""
    relative = Path(os.path.relpath(path))
    return path if ".." in relative.parts else relative
