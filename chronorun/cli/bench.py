"""``chronorun bench``: arms, scenarios and seeds as one sweep, and what they add up to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from chronorun import __version__
from chronorun.cli import hydra_bridge
from chronorun.cli.bench_jobs import LEADER, SweepStopped, bench_job
from chronorun.cli.bench_outcome import collect, conclude
from chronorun.cli.bench_progress import watching
from chronorun.cli.terminal import warn
from chronorun.config.bench import FOLLOWERS, BenchConfig, BenchRunConfig
from chronorun.config.compose import compose_checked
from chronorun.config.overrides import parse_overrides, quoted, swept_values
from chronorun.core.files import write_atomically
from chronorun.core.launch import find_place
from chronorun.errors import RunInterrupted, UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from chronorun.cli.hydra_bridge import HydraCall
    from chronorun.config.compose import Composition, ConfigFiles

DIMENSIONS = ("scenario", "seed", "arm")
NOT_MATHEMATICS = ("hydra.", "hydra/", "tracking", "output_dir", "run_id")
"""Overrides that leave a job's results as they are: a sweep goes on under others of these."""


@dataclass(frozen=True)
class Sweep:
    """The jobs of one bench: what all share, and the values of each dimension.

    ``varied`` are further dimensions that the user sweeps, by override key.
    """

    shared: list[str]
    scenarios: list[str]
    varied: dict[str, list[str]]
    seeds: list[str]
    arms: list[str]

    @property
    def waves(self) -> list[list[str]]:
        """Return the arms that run at once: those that follow another's edits come second."""
        first = [arm for arm in self.arms if arm not in FOLLOWERS]
        second = [arm for arm in self.arms if arm in FOLLOWERS]
        return [wave for wave in (first, second) if wave]

    def cells(self) -> int:
        """Return the number of jobs per arm."""
        n = len(self.scenarios) * len(self.seeds)
        for values in self.varied.values():
            n *= len(values)
        return n

    def __len__(self) -> int:
        return self.cells() * len(self.arms)

    def overrides(self, arms: Sequence[str]) -> list[str]:
        """Return the sweep's overrides for some arms; the last dimension varies fastest."""
        dimensions = {
            "scenario": self.scenarios,
            **self.varied,
            "seed": self.seeds,
            "arm": list(arms),
        }
        return [*self.shared, *(f"{key}={','.join(v)}" for key, v in dimensions.items())]

    def mathematics(self) -> list[str]:
        """Return the overrides that results depend on, for the name of the sweep."""
        whole = self.overrides(self.arms)
        return sorted(text for text in whole if not text.lstrip("+").startswith(NOT_MATHEMATICS))


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
    return _bench(call, files, given, composition)


def _bench(
    call: HydraCall, files: ConfigFiles, given: Sequence[Override], composition: Composition
) -> int:
    config = composition.config
    assert isinstance(config, BenchRunConfig)
    sweep = _sweep(given, files, config.bench)
    _name(sweep, config, given, composition)
    # What the lists of the preset name is checked as if it had been typed.
    whole = compose_checked(sweep.overrides(sweep.arms), files, multirun=True)
    _tell_ignored(config, given)
    folder = Path(str(whole.hydra.hydra.sweep.dir))
    _claim(folder, sweep)
    interrupted = _run_waves(call, files, sweep, folder)
    failed = conclude(folder, sweep, config, [_command(call, given)])
    if interrupted is not None:
        raise interrupted
    return 1 if failed else 0


def _sweep(given: Sequence[Override], files: ConfigFiles, bench: BenchConfig) -> Sweep:
    groups = files.groups()
    seeds = range(bench.first_seed, bench.first_seed + bench.seeds)
    found = {
        "scenario": list(bench.scenarios),
        "seed": [str(seed) for seed in seeds],
        "arm": list(bench.arms),
    }
    shared, varied = [], {}
    for override in given:
        key = override.get_key_element()
        if key == "resume":
            raise UserError(
                "command line: resume given, expected none; the same command goes on where the "
                "sweep stopped"
            )
        if override.is_sweep_override():
            values = swept_values(override, groups.get(override.key_or_group, ()))
            found[key] = varied[key] = values
        elif key in DIMENSIONS:
            found[key] = [str(override.value())]
        else:
            shared.append(str(override.input_line))
    for key in DIMENSIONS:
        varied.pop(key, None)
    sweep = Sweep(shared, found["scenario"], varied, found["seed"], found["arm"])
    _check_leader(sweep)
    return sweep


def _check_leader(sweep: Sweep) -> None:
    followers = [arm for arm in sweep.arms if arm in FOLLOWERS]
    if followers and LEADER not in sweep.arms:
        raise UserError(
            f"command line: arm={','.join(sweep.arms)}, expected {LEADER} among them: "
            f"{', '.join(followers)} follow its edits; add {LEADER}"
        )


def _tell_ignored(config: BenchRunConfig, given: Sequence[Override]) -> None:
    from chronorun.config.ignored import ignored_options

    # The first job stands for all; whether the lifecycle acts is the arms' business.
    keys = {item.key_or_group for item in given}
    about_arms = ("lifecycle", "governance", "edits")
    for message in ignored_options(config, {k for k in keys if not k.startswith(about_arms)}):
        warn(message)


def _name(
    sweep: Sweep, config: BenchRunConfig, given: Sequence[Override], composition: Composition
) -> None:
    """Name a sweep that the user did not name after what is compared: the same command finds it."""
    if any(override.key_or_group == "run_id" for override in given):
        return
    choices = composition.hydra.hydra.runtime.choices
    digest = hashlib.sha256("\n".join(sweep.mathematics()).encode()).hexdigest()[:8]
    config.run_id = f"{choices['bench']}-{digest}"
    sweep.shared.append(f"run_id={config.run_id}")


def _claim(folder: Path, sweep: Sweep) -> None:
    """Say in the folder what is compared there; refuse one that holds another comparison."""
    path = folder / "sweep.json"
    wanted = {"jobs": len(sweep), "overrides": sweep.mathematics()}
    if path.is_file():
        found = msgspec.json.decode(path.read_bytes())
        differ = set(wanted["overrides"]) ^ set(found["overrides"])  # type: ignore[call-overload]
        differ = {text for text in differ if not text.startswith("run_id=")}
        if differ:
            raise UserError(
                f"bench: {folder} holds another comparison ({', '.join(sorted(differ))} differ), "
                f"expected the same overrides; choose another run_id"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(wanted), indent=2) + b"\n")


def _run_waves(
    call: HydraCall, files: ConfigFiles, sweep: Sweep, folder: Path
) -> RunInterrupted | None:
    """Run what is not done yet; return the interruption that ended it, if one did."""
    open_arms = {r.arm for r in collect(folder, sweep) if not r.has_metrics}
    first = 0
    call.arguments.multirun = True
    with watching(folder, len(sweep)):
        for arms in sweep.waves:
            call.overrides = [
                *sweep.overrides(arms),
                f"bench.first_job={first}",
                f"bench.varied=[{','.join(map(quoted, sweep.varied))}]",
                _name_folders(sweep),
            ]
            try:
                # Hydra composes every job, which takes a while, before the first one says it is
                # done: a wave without any to run is left out.
                if not open_arms.isdisjoint(arms):
                    hydra_bridge.run(call, bench_job, files)
            except RunInterrupted as interruption:
                return interruption
            except SweepStopped:
                return None
            first += sweep.cells() * len(arms)
    return None


def _name_folders(sweep: Sweep) -> str:
    shared = [text.partition("=")[0].lstrip("+") for text in sweep.shared]
    hidden = [*shared, "bench.first_job", "bench.varied"]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(quoted, hidden))}]"


def _command(call: HydraCall, given: Sequence[Override]) -> str:
    import shlex

    words = [shlex.quote(str(override.input_line)) for override in given]
    return " ".join(["chronorun bench --multirun", *words])
