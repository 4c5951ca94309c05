"""``chronorun bench``: arms, scenarios and seeds as one sweep, and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chronorun import __version__
from chronorun.bench.run.job import bench_job
from chronorun.bench.run.outcome import conclude
from chronorun.bench.run.plan import claim, fingerprint, plan
from chronorun.bench.run.waves import Waves
from chronorun.config import hydra_bridge
from chronorun.config.bench import BenchRunConfig
from chronorun.config.compose import compose_checked
from chronorun.config.overrides import parse_overrides
from chronorun.config.pasting import command_line
from chronorun.core.launch import find_place
from chronorun.core.lock import exclusive
from chronorun.core.terminal import warn
from chronorun.errors import RunInterrupted, UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from chronorun.config.compose import Composition
    from chronorun.config.hydra_bridge import HydraCall
    from chronorun.config.roots import ConfigFiles


def bench_command(arguments: Sequence[str]) -> int:
    """Run the sweep, or what is left of it, and show the comparison; return the exit code."""
    if "--help" in arguments or "-h" in arguments:
        from chronorun.cli.help import bench_help

        print(bench_help())
        return 0
    if "--version" in arguments:
        print(f"chronorun {__version__}")
        return 0
    if (world := find_place().world) > 1:
        raise UserError(
            f"command line: started as {world} processes, expected one; start the bench without "
            f"torchrun, it has launchers of its own (hydra/launcher=joblib)"
        )
    call = hydra_bridge.parse(arguments)
    files = call.files("bench")
    if call.arguments.experimental_rerun is not None:
        raise UserError(
            "command line: --experimental-rerun given, expected it with chronorun train; "
            "name a job's config.pickle there"
        )
    if call.arguments.hydra_help or call.arguments.shell_completion:
        hydra_bridge.run(call, bench_job, files)
        return 0
    given = parse_overrides(call.overrides)
    call.overrides = [str(override.input_line) for override in given]
    composition = compose_checked(call.overrides, files, multirun=True)
    if call.shows_only:
        hydra_bridge.run(call, bench_job, files)
        return 0
    command = command_line(["chronorun", "bench", *arguments])
    return _bench(call, files, given, composition, command)


def _bench(
    call: HydraCall,
    files: ConfigFiles,
    given: Sequence[Override],
    composition: Composition,
    command: str,
) -> int:
    config = composition.config
    assert isinstance(config, BenchRunConfig)
    sweep = plan(given, files, config.bench)
    mark = fingerprint(sweep, files)
    if all(override.key_or_group != "run_id" for override in given):
        # Named after what is compared: the same command finds it again.
        config.run_id = f"{composition.hydra.hydra.runtime.choices['bench']}-{mark[:8]}"
        sweep.shared.append(f"run_id={config.run_id}")
    # What the lists of the preset name is checked as if it had been typed.
    whole = compose_checked(sweep.overrides(sweep.arms), files, multirun=True)
    _tell_ignored(config, given)
    folder = Path(str(whole.hydra.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder, "bench"):
        claim(folder, sweep, mark)
        end = Waves(call, files, sweep, folder, config.bench.on_error).run()
        without_result = conclude(folder, sweep, config, [command])
    if isinstance(end, RunInterrupted):
        message = "bench: interrupted, everything is saved; the same command goes on"
        raise RunInterrupted(message, end.signal_number)
    return 1 if without_result or end is not None else 0


def _tell_ignored(config: BenchRunConfig, given: Sequence[Override]) -> None:
    from chronorun.config.ignored import ignored_options

    # The first job stands for all; whether the lifecycle acts is the arms' business.
    keys = {item.key_or_group for item in given}
    about_arms = ("lifecycle", "governance", "edits")
    for message in ignored_options(config, {k for k in keys if not k.startswith(about_arms)}):
        warn(message)
